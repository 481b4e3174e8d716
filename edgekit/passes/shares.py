"""How much data was enough: the same training on shares of the samples, judged alike.

Every share is trained for as many steps as the whole, so that what differs is what there was to
learn from. Shares are drawn from the seed, with the classes in proportion, and a smaller one is
part of each larger one. All are judged on the evaluation split, which decides nothing here: the
artifact is what came of all samples.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, field_validator

from edgekit.errors import PassError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.data import Dataset
    from edgekit.graph.program import Program
    from edgekit.passes.base import Context
    from edgekit.train.checkpoint import Keep
    from edgekit.train.config import TrainConfig
    from edgekit.train.history import History

    Train = Callable[["Dataset", Any, "Keep | None"], tuple["Program", "History"]]


class DataShares(BaseModel):
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
        self, config: "TrainConfig", context: "Context", keep: "Keep | None", train: "Train"
    ) -> "tuple[Program, History]":
        """Train on all samples, and on the shares first; notes the history and the report.

        Args:
            config: the settings for all samples.
            context: data, task, seed; gets the notes.
            keep: what is kept on disk.
            train: from samples, settings and what is kept to a network.

        Raises:
            UsageError: there is nothing to judge by, or a share is too small.
        """
        if context.data is None:
            raise PassError("There is no data to train on.", "Add a `data:` section.")
        whole = context.data
        _check(self.data_shares, context, whole)
        rows = []
        for share in self.data_shares:
            part = whole.part(share, context.seed)
            program, history = train(part, _longer(config, whole, part), _own(keep, share))
            rows.append(_row(share, part, program, history, context))
        program, history = train(whole, config, keep)
        context.notes["history"] = history.to_dict()
        if rows:
            rows.append(_row(1.0, whole, program, history, context))
            context.notes["data_shares"] = {"rows": rows, "enough": _enough(rows)}
        return program, history


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


def _longer(config: "TrainConfig", whole: "Dataset", part: "Dataset") -> "TrainConfig":
    """As many steps on the part as on the whole; whatever counts epochs is stretched with them."""
    size = config.batch_size * config.accumulate
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
