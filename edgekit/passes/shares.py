"""How much data was enough: the same training on shares of the samples, judged alike.

Every share is trained for as many steps as the whole, so that what differs is what there was to
learn from. Shares are drawn from the seed, with the classes in proportion, and a smaller one is
part of each larger one. All are judged on the evaluation split, which decides nothing here: the
artifact is what came of all samples. What a share gave is kept beside the training's state, so that
a run that was interrupted goes on with the share it was in.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from edgekit.errors import PassError, UsageError
from edgekit.passes.base import Pass

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.artifact import Artifact
    from edgekit.data import Dataset
    from edgekit.graph.program import Program
    from edgekit.passes.base import Context
    from edgekit.train.checkpoint import Keep
    from edgekit.train.config import TrainConfig
    from edgekit.train.history import History

    Train = Callable[..., tuple["Program", "History"]]


class DataShares(Pass):
    """An option of passes that train.

    Attributes:
        data_shares: shares of the training samples to train on as well, each from the same start
            and for as many steps, to say how much data was enough; `[0.01, 0.1]`, say.
    """

    data_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()

    @field_validator("data_shares")
    @classmethod
    def _in_order(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    def train_with_shares(
        self, config: "TrainConfig", artifact: "Artifact", context: "Context", train: "Train"
    ) -> "Program":
        """Train on all samples, and on the shares first; notes the history and the report.

        Args:
            config: the settings for all samples.
            artifact: what is trained.
            context: data, task, seed; gets the notes.
            train: from samples and settings to a network; takes the `seed`, `progress`, `threads`
                and `keep` of `edgekit.train.trainer.train`.

        Raises:
            UsageError: there is nothing to judge by, or a share is too small; the data has changed
                since an interrupted run.
            PassError: the processes do not see the same files.
        """
        from edgekit.evaluate import fixed_batch
        from edgekit.passes.keeping import keep_of

        if context.data is None:
            raise PassError("There is no data to train on.", "Add a `data:` section.")
        whole, keep = context.data, keep_of(self, artifact, context)
        _check(self.data_shares, context, whole)
        lent = {"seed": context.seed, "progress": context.progress, "threads": context.threads}
        if not self.data_shares:
            program, history = train(whole, config, keep=keep, **lent)
            context.notes["history"] = history.to_dict()
            return program
        done = _Done(keep, config, context, whole)
        size = (fixed_batch(artifact) or config.batch_size) * config.accumulate
        for share in self.data_shares[len(done.rows) :]:
            part = whole.part(share, context.seed)
            longer = _longer(config, whole, part, size * done.world)
            program, history = train(part, longer, keep=_own(keep, share), **lent)
            done.add(_row(share, part, program, history, context))
        program, history = train(whole, config, keep=keep, **lent)
        context.notes["history"] = history.to_dict()
        rows = [*done.rows, _row(1.0, whole, program, history, context)]
        context.notes["data_shares"] = {"rows": rows, "enough": _enough(rows)}
        done.remove()
        return program


class _Done:
    """The rows of the shares that are done, in the order of the shares, on disk too.

    Args:
        keep: the training's state, beside which they lie; its name tells one training from another.
        config: the settings for all samples.
        context: the threads; the seed and the task are in the state's name.
        data: all samples.

    Attributes:
        rows: so far.
        world: processes that train together.
    """

    def __init__(
        self, keep: "Keep | None", config: "TrainConfig", context: "Context", data: "Dataset"
    ) -> None:
        from edgekit.train.checkpoint import Checkpoint, Keep
        from edgekit.train.place import agree, place

        keep = keep or Keep()
        path = keep.state and keep.state.with_suffix(".shares")
        with place(config) as here:
            settings = {"threads": context.threads, "world": here.world}
            self._file = Checkpoint(replace(keep, state=path), data.summary(), settings)
            self.world, self._writes = here.world, here.rank == 0
            found = self._file.load()
            self.rows: list[dict[str, Any]] = found["rows"] if found else []
            agree(here, len(self.rows))

    def add(self, row: dict[str, Any]) -> None:
        """Keep one more."""
        self.rows.append(row)
        if self._writes:
            self._file.offer(lambda: {"rows": self.rows}, now=True)

    def remove(self) -> None:
        """All is done."""
        if self._writes:
            self._file.remove()


def _check(shares: tuple[float, ...], context: "Context", data: "Dataset") -> None:
    """Refuse before anything is trained what could not be judged afterwards."""
    if not shares:
        return
    kind = context.task.kind
    if kind == "none":
        raise UsageError("`data_shares` needs a metric, and the task has none.", "Give `task:`.")
    if not data.count("evaluation") or (data.targets is None and kind != "reconstruction"):
        raise UsageError(
            "`data_shares` is judged on the evaluation split, which has no "
            + ("samples." if not data.count("evaluation") else "targets."),
            "Give it some with `data: split:`, or leave `data_shares` out.",
        )
    data.part(shares[0], context.seed)  # the smallest


def _longer(config: "TrainConfig", whole: "Dataset", part: "Dataset", size: int) -> "TrainConfig":
    """As many steps on the part as on the whole; whatever counts epochs is stretched with them.

    Args:
        config: the settings for the whole.
        whole: all samples.
        part: a share of them.
        size: samples of a step, over all processes.
    """
    left = 1 - config.validation
    steps = [max(1, -(-round(d.count("train") * left) // size)) for d in (whole, part)]
    ratio = steps[0] / steps[1]

    def stretched(epochs: int | None) -> int | None:
        return None if epochs is None else max(1, round(epochs * ratio))

    return config.model_copy(
        update={
            "epochs": stretched(config.epochs),
            "patience": stretched(config.patience),
            "freeze": {name: stretched(epochs) for name, epochs in config.freeze.items()},
        }
    )


def _own(keep: "Keep | None", share: float) -> "Keep | None":
    """A state of the share's own; the teacher's answers lie by their samples anyway."""
    if keep is None or keep.state is None:
        return keep
    return replace(keep, state=keep.state.with_name(f"{keep.state.stem}-{share:g}.state"))


def _row(
    share: float, data: "Dataset", program: "Program", history: "History", context: "Context"
) -> dict[str, Any]:
    found = _judge(program, data, context)
    return {
        "share": share,
        "samples": data.count("train"),
        "epochs": len(history.epochs),
        "metric": found.metric,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "higher_is_better": found.higher_is_better,
    }


def _judge(program: "Program", data: "Dataset", context: "Context") -> Any:
    """The task's metric on the evaluation split, with its interval."""
    import numpy as np
    import torch

    from edgekit.evaluate import answer_of, targets_of
    from edgekit.metrics import evaluate_predictions
    from edgekit.train.reproducible import reproducible
    from edgekit.train.teacher import ProgramAnswers

    names = [spec.name for spec in program.inputs]
    parts: dict[str, list[Any]] = {}
    with reproducible(context.seed, context.threads):
        answers = ProgramAnswers(program, names)
        for batch in data.for_model(program.inputs).batches("evaluation", 256):
            tensors = [
                torch.from_numpy(np.require(batch.inputs[n], None, ["C", "W"])) for n in names
            ]
            for name, value in answers(tensors).items():
                parts.setdefault(name, []).append(value.numpy())
    outputs = {name: np.concatenate(values) for name, values in parts.items()}
    task, split = context.task, "evaluation"
    targets = targets_of(task, data, split, outputs)
    if targets is None:
        raise UsageError("The data has no targets to judge by.", "Leave `data_shares` out.")
    ids = [data.ids[i] for i in data.splits[split]]
    return evaluate_predictions(task, answer_of(task, data, split, outputs), targets, ids)[0]


def _enough(rows: list[dict[str, Any]]) -> float:
    """The smallest share whose interval holds what all samples give, or has better."""
    full = rows[-1]["value"]
    for row in rows:
        better = row["high"] >= full if row["higher_is_better"] else row["low"] <= full
        if better:
            return float(row["share"])
    return 1.0
