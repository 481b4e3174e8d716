"""Train a network to answer as its teacher does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from edgekit.artifact import Artifact, TensorSpec
from edgekit.distill.answers import answer_loss, class_axis, is_soft, least_samples
from edgekit.distill.features import Features
from edgekit.distill.teachers import (
    Ensemble,
    OnnxAnswers,
    Renamed,
    combine_by,
    one_name,
    only_program,
)
from edgekit.errors import UsageError
from edgekit.progress import Progress
from edgekit.train.batches import Minibatch
from edgekit.train.checkpoint import Keep
from edgekit.train.losses import Loss, Outputs, output_name, task_loss
from edgekit.train.teacher import Answers, ProgramAnswers
from edgekit.train.trainer import History, train

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.distill.config import DistillConfig
    from edgekit.distill.teachers import Network
    from edgekit.graph.program import Program
    from edgekit.metrics import Task


def distill(
    student: "Program",
    teacher: "Network | Sequence[Network]",
    data: "Dataset",
    task: "Task",
    config: "DistillConfig",
    *,
    seed: int,
    progress: Progress | None = None,
    threads: int | None = None,
    keep: Keep | None = None,
) -> tuple["Program", History, list[dict[str, str]]]:
    """Train a student on its teacher's outputs, and on the labels where they have a weight.

    The loss is (1 - label_weight) · answers + label_weight · the task's loss + that of features.

    Args:
        student: the network that learns; it is not changed.
        teacher: the network that answers, a captured program or an ONNX artifact; several answer
            with the mean of their probabilities, or of their numbers.
        data: samples; no targets are needed where `label_weight` is 0.
        task: what the networks are for.
        config: the losses and the hyper-parameters of training.
        seed: of the order, the augmentation and dropout.
        progress: shows how far it is.
        threads: CPU threads; None leaves torch's.
        keep: what is kept on disk, to go on from; nothing unless given.

    Returns:
        The trained student, in eval mode, how training went, and which layers were compared.

    Raises:
        UsageError: the two networks have other inputs or outputs, or data and task do not fit.
        PassError: the loss or the weights are not finite.
    """
    if config.loss == "none" and config.label_weight == 0 and not config.features:
        raise UsageError(
            "There is nothing to learn from: the loss is `none`, and labels have no weight.",
            "Give `loss` or `features`, or a `label_weight` above 0.",
        )
    judged = next(s for s in student.outputs if s.name == output_name(task, student))
    axis = class_axis(config, task, judged)
    members = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
    for member in members:
        check_outputs(student.outputs, _outputs(student, member), judged.name, axis)
        _check_inputs(student.inputs, member.inputs)
    labels = None
    if config.label_weight > 0:
        _check_labels(data, task, config.label_weight)
        labels = task_loss(task, student, label_smoothing=config.label_smoothing)
    loss = _mixed(answer_loss(config, task, student), labels, config.label_weight)
    inside = (
        Features(config.features, student, only_program(members), seed) if config.features else None
    )
    answers: Answers | None = None
    if config.label_weight < 1 or inside is not None:
        taps = inside.teacher_taps if inside else None
        each = [_answers(student, member, taps, threads) for member in members]
        combine = combine_by(judged.name, soft=is_soft(config, task), axis=axis)
        answers = each[0] if len(each) == 1 else Ensemble(each, combine)
    trained, history = train(
        student,
        data,
        task,
        config,
        seed=seed,
        progress=progress,
        threads=threads,
        loss=loss if inside is None else _with_features(loss, inside),
        teacher=answers,
        least=max(least_samples(config), inside.least if inside else 1),
        taps=inside.student_taps if inside else None,
        beside=inside,
        keep=_keep(keep, inside, judged.name, axis),
    )
    return trained, history, inside.pairs if inside else []


def _check_labels(data: "Dataset", task: "Task", weight: float) -> None:
    """Refuse before the teacher is asked what would be refused in the first batch."""
    alone = "`label_weight: 0` (`--label-weight 0`) learns from the teacher alone"
    if task.kind == "none":
        raise UsageError(
            f"The task `none` has no labels, and they have a weight of {weight:g}.",
            f"Give `task: kind:`; {alone}.",
        )
    if data.targets is None and task.kind not in {"reconstruction", "anomaly"}:
        raise UsageError(
            f"The data has no targets, and labels have a weight of {weight:g}.",
            f"Name them: `data: target:`; {alone}.",
        )


def _keep(keep: Keep | None, inside: Features | None, judged: str, axis: int | None) -> Keep | None:
    """What is kept, with all that the answers of the same teachers depend on."""
    if keep is None:
        return None
    taps = dict(inside.teacher_taps) if inside else {}
    return replace(keep, identity=f"{keep.identity} {judged} {axis} {taps}")


def check_outputs(
    student: Sequence[TensorSpec], teacher: Sequence[TensorSpec], judged: str, axis: int | None
) -> None:
    """Refuse networks whose outputs cannot be compared.

    Args:
        student: its outputs.
        teacher: its outputs.
        judged: the output that the task judges.
        axis: its axis of classes, None without one.

    Raises:
        UsageError: their names or shapes differ.
    """
    given = {spec.name: spec for spec in teacher}
    for spec in student:
        other = given.get(spec.name)
        if other is None:
            raise UsageError(
                f"The student's outputs are {_listed(student)}, the teacher's {_listed(teacher)}.",
                "Give both networks the same outputs.",
            )
        if len(spec.shape) == len(other.shape) and spec.name == judged and axis is not None:
            ours, theirs = spec.shape[axis], other.shape[axis]
            if isinstance(ours, int) and isinstance(theirs, int) and ours != theirs:
                raise UsageError(
                    f"The student's output is {spec}, the teacher's {other}: {ours} classes"
                    f" and {theirs}.",
                    "Give a teacher of the same classes.",
                )
        # The first axis is the batch, which one of the two may have fixed.
        pairs = zip(spec.shape[1:], other.shape[1:], strict=False)
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        if len(spec.shape) != len(other.shape) or any(a != b for a, b in fixed):
            raise UsageError(
                f"The student's output is {spec}, the teacher's {other}.",
                "Give both networks outputs of the same shape.",
            )


def _check_inputs(student: Sequence[TensorSpec], teacher: Sequence[TensorSpec]) -> None:
    """Refuse a teacher that cannot be shown what the student sees."""
    given = {spec.name: spec for spec in student}
    only = student[0] if len(student) == len(teacher) == 1 else None
    for spec in teacher:
        ours = only or given.get(spec.name)  # one that is missing is named when it is asked
        if ours is None:
            continue
        pairs = zip(ours.shape[1:], spec.shape[1:], strict=False)
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        if len(ours.shape) != len(spec.shape) or any(a != b for a, b in fixed):
            raise UsageError(
                f"The student's input is {ours}, the teacher's {spec}.",
                "Give both networks inputs of the same shape.",
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))


def _outputs(student: "Program", teacher: "Network") -> tuple[TensorSpec, ...]:
    """A teacher's outputs under the names that the student has for them."""
    if isinstance(teacher, Artifact) and (name := one_name(student.outputs, teacher.outputs)):
        return (teacher.outputs[0].model_copy(update={"name": name}),)
    return teacher.outputs


def _answers(
    student: "Program", teacher: "Network", taps: Mapping[str, str] | None, threads: int | None
) -> Answers:
    inputs = [spec.name for spec in student.inputs]
    if not isinstance(teacher, Artifact):
        return ProgramAnswers(teacher, inputs, taps)
    found = OnnxAnswers(teacher, inputs, threads or 1)
    name = one_name(student.outputs, teacher.outputs)
    return Renamed(found, name) if name else found


def _with_features(answers: Loss, inside: Features) -> Loss:
    return lambda outputs, batch: (
        answers(outputs, batch) + inside(outputs, batch.teacher, batch.passed)
    )


def _mixed(distillation: Loss, labels: Loss | None, label_weight: float) -> Loss:
    if labels is None:
        return distillation

    def loss(outputs: Outputs, batch: Minibatch) -> Tensor:
        by_labels = labels(outputs, batch)
        if label_weight == 1:
            return by_labels
        return (1 - label_weight) * distillation(outputs, batch) + label_weight * by_labels

    return loss
