"""Several processes that `torchrun` or `accelerate launch` started with one and the same command.

The first one runs the command. The others wait, join in wherever a step trains, and wait again: so
files are written, latency is measured and results are printed once, and every command and recipe
works under a launcher as it is. They end when the first one ends.

What is sent is the step as data; every process reads the artifact and the samples itself, so these
lie where all machines see them.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from edgekit.artifact import Artifact
from edgekit.errors import EdgekitError, PassError
from edgekit.passes.base import Context, Pass

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_PATIENCE = timedelta(days=30)  # the first process may prune or measure for as long as it likes


class Crew:
    """The processes of one launch, as one of them sees it."""

    def __init__(self) -> None:
        import torch
        from torch import distributed

        _check_libraries()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend)
        self.rank: int = distributed.get_rank()
        self._channel: ProcessGroup = distributed.new_group(timeout=_PATIENCE, backend="gloo")
        self.at_work = False

    def tell(self, job: dict[str, Any] | None) -> None:
        """Send a job to the others; None ends them."""
        from torch import distributed

        box = [json.dumps(job)]
        distributed.broadcast_object_list(box, src=0, group=self._channel)

    def hear(self) -> dict[str, Any] | None:
        """Wait for a job."""
        from torch import distributed

        box: list[Any] = [None]
        distributed.broadcast_object_list(box, src=0, group=self._channel)
        job: dict[str, Any] | None = json.loads(box[0])
        return job

    def part(self) -> None:
        """Wait until all have heard that it is over: one that leaves early breaks the channel."""
        from torch import distributed

        # Whoever waits last may find the others gone, and has nothing left to hear.
        with suppress(RuntimeError):
            distributed.barrier(group=self._channel)


_crew: Crew | None = None


def lead(command: Callable[[], None]) -> None:
    """Run a command in the first process, with the others at hand; what it raises is passed on."""
    global _crew
    _crew = Crew()
    signal.signal(signal.SIGTERM, _told_to_end)
    try:
        command()
    finally:
        # Others that are in the middle of a step cannot listen; they end as their partner is gone.
        if not _crew.at_work:
            _crew.tell(None)
            _crew.part()
        _crew = None


def follow() -> None:
    """Take part in whatever the first process trains, until it ends."""
    crew = Crew()
    sys.stdout = sys.stderr  # results come from the first process
    while True:
        try:
            job = crew.hear()
        except RuntimeError as e:
            raise PassError(
                "The first process of this job is gone.", "See its own message, above or below."
            ) from e
        if job is None:
            crew.part()
            return
        _join(job)


def run_step(step: Pass, artifact: Artifact, context: Context) -> Artifact:
    """Run a step, in all processes where it trains and there are others.

    Raises:
        EdgekitError: as the step demands.
    """
    if _crew is None or not step.trains:
        return step.run(artifact, context)
    _crew.tell(_job(step, artifact, context))
    _crew.at_work = True
    made = step.run(artifact, context)
    _crew.at_work = False
    return made


def _job(step: Pass, artifact: Artifact, context: Context) -> dict[str, Any]:
    data = context.data
    return {
        "step": step.model_dump(mode="json"),
        "artifact": _whereabouts(artifact),
        "original": context.original and _whereabouts(context.original),
        "seed": context.seed,
        "task": context.task.model_dump(),
        "base": str(context.base.resolve()),
        "cache": context.cache and str(context.cache.resolve()),
        "threads": context.threads,
        "imports": context.imports,
        "data": data and data.config.model_dump(mode="json", exclude_unset=True),
        "data_base": data and str(data.base.resolve()),
        "data_hash": data and data.content_hash,
    }


def _whereabouts(artifact: Artifact) -> dict[str, Any]:
    return {"root": str(artifact.root.resolve()), **artifact.model_dump(mode="json")}


def _join(job: dict[str, Any]) -> None:
    """Do a step beside the first process; what comes out of it is the first one's to keep."""
    from edgekit.data import DataConfig, open_data
    from edgekit.entry import import_modules
    from edgekit.metrics import Task
    from edgekit.pipeline.step import guarded, seed_everything
    from edgekit.recipe.schema import pass_kinds

    import_modules(job["imports"], Path(job["base"]))
    step = pass_kinds()[job["step"]["kind"]].model_validate(job["step"])
    data = None
    if job["data"] is not None:
        data = open_data(DataConfig.model_validate(job["data"]), Path(job["data_base"]))
        if data.content_hash != job["data_hash"]:
            raise PassError(
                f"The data {data.summary()['source']} is not the same in all processes.",
                "Give every machine the same files.",
            )
    with tempfile.TemporaryDirectory() as out:
        context = Context(
            out=Path(out),
            seed=job["seed"],
            task=Task.model_validate(job["task"]),
            base=Path(job["base"]),
            data=data,
            original=job["original"] and Artifact.model_validate(job["original"]),
            threads=job["threads"],
            imports=tuple(job["imports"]),
            cache=job["cache"] and Path(job["cache"]),
        )
        seed_everything(context.seed)
        artifact = Artifact.model_validate(job["artifact"])
        if not artifact.path.exists():
            raise PassError(
                f"{artifact.path} is not on this machine.", "Give an output folder that all share."
            )
        with guarded(f"Step {step.title!r}"):
            step.run(artifact, context)


def _check_libraries() -> None:
    try:
        import accelerate  # noqa: F401
    except ModuleNotFoundError as e:
        from edgekit.errors import UnavailableError
        from edgekit.extras import command

        raise UnavailableError(
            "Several processes need accelerate, which is not installed.", command("accelerate")
        ) from e


def _told_to_end(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise PassError(
        "The launcher ended this job, most likely as another of its processes was lost.",
        "See what ended it, and start the command again: it goes on from its last checkpoint.",
    )


def main(command: Callable[[], None]) -> None:
    """Run a command as one of a launch's processes.

    Raises:
        EdgekitError: as the command demands; from the others, what a step that they joined demands.
    """
    if int(os.environ["RANK"]) == 0:
        lead(command)
        return
    try:
        follow()
    except EdgekitError as e:
        e.message = f"Process {os.environ['RANK']}: {e.message}"
        raise
