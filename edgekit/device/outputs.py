"""What a model computes on a device, to hold it against what it computes here."""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.device.api import interruptible
from edgekit.device.parts import check_runtimes, parts_of
from edgekit.device.registry import Device
from edgekit.device.session import Say, Session, Stop
from edgekit.device.talk import Patience
from edgekit.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgekit.bench import Subject
    from edgekit.bench.runtimes.base import Array

MAX_BYTES = 1 << 30
"""Of inputs at once: they are held in memory, here and on the device."""


def infer(
    device: Device,
    subject: "Subject",
    batches: "Sequence[Mapping[str, Array]]",
    *,
    say: Say | None = None,
    stop: Stop | None = None,
    patience: Patience | None = None,
) -> "list[dict[str, Array]]":
    """Run a model on a device. Nothing is timed.

    Args:
        device: where.
        subject: the model, its runtime and the runtime's options; its own `feeds` are not used.
        batches: inputs of each run, one array for each input, all of the same shapes.
        say: called with the fraction done and a short text.
        stop: asked about five times a second; True does what Ctrl-C does.
        patience: how long to wait for the device.

    Returns:
        Outputs by name, for each run.

    Raises:
        DeviceError: the device cannot be reached, was lost in mid-run, or is in use.
        UnavailableError: it lacks Python, a module, a runtime or a driver.
        UsageError: the model cannot be loaded, or the inputs do not fit or are too many.
        KeyboardInterrupt: it was stopped.
    """
    import numpy as np

    size = sum(array.nbytes for batch in batches for array in batch.values())
    if not batches or size > MAX_BYTES:
        raise UsageError(
            f"{size / 1e9:.1f} GB of inputs cannot go to {device.name} at once.",
            f"Give at least one sample, and at most {MAX_BYTES / 1e9:.1f} GB.",
        )
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    with (
        interruptible() as interrupted,
        tempfile.TemporaryDirectory(prefix="edgekit-") as folder,
        Session(
            device,
            stop=lambda: max(interrupted(), 0 if stop is None else stop()),
            patience=patience,
        ) as session,
    ):
        parts = parts_of(dataclasses.replace(subject, feeds=stacked), Path(folder), 0)
        check_runtimes(session.hello, [subject], device)
        session.lock()
        sums = dict(zip(parts.paths, session.upload(parts.paths, say), strict=True))
        found = session.infer({"subjects": [parts.request(sums)]}, say)
    if any(len(array) != len(batches) for array in found.values()):
        raise DeviceError(
            f"{device.name} sent outputs of another number of runs.",
            "Remove ~/.cache/edgekit on the device, and try again.",
        )
    return [{name: array[run] for name, array in found.items()} for run in range(len(batches))]
