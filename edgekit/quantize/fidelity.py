"""Does a mended file still compute what it did? Both are run, as they are written, on one input.

The unit is the step of an 8-bit quantizer over the output's range: (max - min) / 255. ONNX
Runtime's fusions are off, so that saturation of its kernels does not enter the comparison.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import PassError
from edgekit.lower import check
from edgekit.quantize import dialect
from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    import onnx

SAMPLES = 8
_BATCH = 2
_STEPS = 255
_SIGMAS = 6


@dataclass(frozen=True)
class Fidelity:
    """How far two files lie apart.

    Attributes:
        samples: how many inputs they were run on.
        seed: of the inputs.
        steps: largest difference of each float output, in its own 8-bit steps.
        worst_steps: the largest of these.
    """

    samples: int
    seed: int
    steps: dict[str, float]
    worst_steps: float


def compare(
    before: Path, after: Path, model: "onnx.ModelProto", *, samples: int = SAMPLES, seed: int = 0
) -> Fidelity:
    """Run two files on inputs that lie in the ranges of their quantizers.

    Args:
        before: the original.
        after: the mended one, of the same inputs and outputs.
        model: the original, for the ranges of its inputs.
        samples: how many inputs.
        seed: of the inputs.

    Raises:
        PassError: ONNX Runtime does not take one of them, or cannot run it.
    """
    runners = [check.onnx_runner(path, optimize=False) for path in (before, after)]
    answers: list[list[check.Arrays]] = [[], []]
    for feed in inputs(model, samples, seed):
        for runner, kept in zip(runners, answers, strict=True):
            try:
                kept.append(runner(feed))
            except Exception as e:
                raise PassError(
                    f"The file cannot be run to verify the mend: {str(e).splitlines()[0]}",
                    "Mend it by quantizing again: `edgekit quantize`.",
                ) from e
    steps: dict[str, float] = {}
    for name, first in answers[0][0].items():
        if not np.issubdtype(first.dtype, np.floating):
            continue
        right, got = (np.stack([a[name] for a in kept]).astype(np.float64) for kept in answers)
        step = float(right.max() - right.min()) / _STEPS
        difference = float(np.abs(right - got).max())
        steps[name] = difference / step if step > 0 else (np.inf if difference else 0.0)
    return Fidelity(samples, seed, steps, max(steps.values(), default=0.0))


def inputs(
    model: "onnx.ModelProto", samples: int, seed: int
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Inputs for a model: normal within the range that a quantizer of the input covers.

    Inputs that are not quantized are standard normal; integers are 0 or 1, which every vocabulary
    and mask holds. Dynamic sizes are 2.
    """
    from edgekit.graph.onnx_model import specs

    graph, rng = Graph(model), np.random.default_rng(seed)
    known, _ = specs(model)
    ranges = {spec.name: _range(graph, spec.name) for spec in known}
    for _ in range(samples):
        feed: dict[str, NDArray[Any]] = {}
        for spec in known:
            shape = [d if isinstance(d, int) else _BATCH for d in spec.shape]
            dtype = np.dtype(spec.dtype)
            if np.issubdtype(dtype, np.floating):
                low, high = ranges[spec.name]
                values = (low + high) / 2 + rng.standard_normal(shape) * (high - low) / _SIGMAS
                feed[spec.name] = np.clip(values, low, high).astype(dtype)
            else:
                feed[spec.name] = rng.integers(0, 2, shape).astype(dtype)
        yield feed


def _range(graph: Graph, name: str) -> tuple[float, float]:
    for reader in graph.readers(name):
        levels = graph.levels(reader) if reader.op_type == "QuantizeLinear" else None
        if levels is not None and str(levels[1].dtype) in {"int8", "uint8"}:
            return dialect.range_of(*levels)
    return -_SIGMAS / 2, _SIGMAS / 2
