"""What a device needs to run a model: the files, and a runtime that it has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.device.registry import Device
from edgekit.device.talk import Hello
from edgekit.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from edgekit.bench import Subject


@dataclass(frozen=True)
class Parts:
    """A subject as files.

    Attributes:
        subject: the subject.
        feeds: its inputs, in an `.npz`.
        beside: files that the model needs, by their path relative to the model's folder.
    """

    subject: "Subject"
    feeds: Path
    beside: Mapping[str, Path]

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [Path(self.subject.model), self.feeds, *self.beside.values()]

    def request(self, sums: Mapping[Path, str]) -> dict[str, Any]:
        """The subject as the agent reads it."""
        model = Path(self.subject.model)
        return {
            "name": self.subject.name,
            "runtime": self.subject.runtime,
            "model": {
                "sha256": sums[model],
                "name": model.name,
                "beside": {name: sums[path] for name, path in self.beside.items()},
            },
            "feeds": sums[self.feeds],
            "options": json.loads(json.dumps(dict(self.subject.options))),
        }


def parts_of(subject: "Subject", folder: Path, number: int) -> Parts:
    """A subject's files; its inputs are written into a folder under a number.

    Raises:
        UsageError: its model is no file.
    """
    import numpy as np

    model = Path(subject.model)
    if not model.is_file():
        raise UsageError(f"{model} is no file.", "Give the model's file.")
    feeds = folder / f"feeds-{number}.npz"
    arrays = {name: np.ascontiguousarray(array) for name, array in subject.feeds.items()}
    np.savez(feeds, **arrays)  # type: ignore[arg-type]
    return Parts(subject, feeds, beside(model))


def beside(model: Path) -> dict[str, Path]:
    """Files that a model needs beside itself, by their path relative to its folder.

    ONNX external data, the weights of an OpenVINO model, and an engine's JSON.
    """
    found: dict[str, Path] = {}
    if model.suffix == ".onnx":
        from edgekit.graph.onnx_model import external_data

        found = {name: model.parent / name for name in external_data(model)}
    elif model.suffix == ".xml":
        found = {f"{model.stem}.bin": model.with_suffix(".bin")}
    else:
        found = {f"{model.stem}.json": model.with_suffix(".json")}
    return {name: path for name, path in found.items() if path.is_file()}


def check_runtimes(hello: Hello, subjects: Sequence["Subject"], device: Device) -> None:
    """Say what a device lacks before a file is sent to it."""
    if "numpy" in hello.missing:
        raise UnavailableError(
            f"{device.name} lacks {', '.join(hello.missing)} in Python {hello.python}"
            f" ({hello.executable}).",
            hello.install
            or f"On the device: {hello.executable} -m pip install {' '.join(hello.missing)}",
        )
    for name in dict.fromkeys(subject.runtime for subject in subjects):
        found = hello.runtimes.get(name)
        if found is not None and not found.get("ok"):
            raise UnavailableError(
                f"{device.name} cannot run {name}: {found.get('reason', '')}",
                str(found.get("fix") or f"Look at `edgekit device probe {device.name}`."),
            )
