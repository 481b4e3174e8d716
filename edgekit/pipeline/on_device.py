"""Run an artifact on one of the user's devices in place of this machine, for a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgekit.artifact import Artifact
from edgekit.errors import UsageError
from edgekit.evaluate import Arrays, Runner, padded
from edgekit.progress import Progress, Silent

RUNTIMES = {"onnx": "onnxruntime", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


def runner_on(artifact: Artifact, device_name: str, progress: Progress | None = None) -> Runner:
    """What runs an artifact on a device, all batches in one go.

    Args:
        artifact: an ONNX artifact or an engine.
        device_name: a device of `edgekit device list`.
        progress: where to show the progress.

    Raises:
        UsageError: there is no such device, or devices do not run such artifacts.
    """
    from edgekit import device as devices

    if artifact.format not in RUNTIMES:
        raise UsageError(
            f"{artifact.path.name} is a .{artifact.format} file, which devices do not run.",
            "Export it first: edgekit export.",
        )
    device = devices.get(device_name)

    def run(batches: Iterable[Mapping[str, NDArray[Any]]]) -> Sequence[Arrays]:
        from edgekit.bench import Subject

        fed = list(batches)
        # All runs have one shape, so the last batch is filled up; whoever reads cuts it again.
        rows = max((len(array) for each in fed for array in each.values() if array.ndim), default=0)
        fed = [padded(each, rows) if len(fed) > 1 else dict(each) for each in fed]
        subject = Subject(artifact.path.name, RUNTIMES[artifact.format], artifact.path, {})
        done = 0.0
        with (progress or Silent()).task(f"run on {device.name}", 1.0) as task:

            def say(fraction: float, text: str) -> None:
                nonlocal done
                # Sending comes first, and counts for nothing: inputs are small beside the work.
                fraction = fraction if text.startswith("run") else 0.0
                task.advance(max(0.0, fraction - done), detail=text)
                done = max(done, fraction)

            return devices.infer(device, subject, fed, say=say)

    return run
