"""Where a step that trains keeps its state and its teacher's answers."""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.passes.base import Context, Pass
    from edgekit.train.checkpoint import Keep


def keep_of(step: "Pass", artifact: "Artifact", context: "Context") -> "Keep | None":
    """What a training keeps on disk; None where there is no folder that outlives the step.

    The state's name holds all that decides the result but the data, so that a training whose data
    has changed finds its state, and says so.
    """
    from edgekit.train import checkpoint
    from edgekit.train.checkpoint import Keep

    if context.cache is None:
        return None
    reads = step.reads(context)
    settings = [step.model_dump(mode="json"), artifact.content_hash, reads, context.seed]
    settings.append(context.task.model_dump())
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    return Keep(
        state=context.cache / "training" / f"{step.title}-{name}.state",
        answers=context.cache / "teacher",
        identity=" ".join(reads),
        every_s=checkpoint.EVERY_S,
    )
