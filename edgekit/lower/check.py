"""Does the lowered file compute the same numbers? On several sizes, with a tolerance that is said.

The difference allowed at one element is `atol · max(1, max|r|) + rtol · |r|`, r being the reference
output: float32 sums over many terms differ in the last bits in proportion to the terms, not to a
result that happens to be near zero. Integer and boolean outputs must be equal.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import PassError

Arrays = dict[str, NDArray[Any]]
Runner = Callable[[Mapping[str, NDArray[Any]]], Arrays]

CHECK_HINT = (
    "Give the step a larger `atol` or `rtol` if this difference is acceptable; "
    "otherwise an operator of the network is lowered wrongly."
)


@dataclass(frozen=True)
class Difference:
    """The largest differences seen.

    Attributes:
        max_abs: largest absolute difference over all outputs.
        max_rel: largest difference relative to the largest magnitude of its output.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0

    def join(self, other: "Difference") -> "Difference":
        """The larger of the two, field by field."""
        return Difference(max(self.max_abs, other.max_abs), max(self.max_rel, other.max_rel))


def onnx_runner(model: Path | bytes, *, optimize: bool = True) -> Runner:
    """Open a model in ONNX Runtime on one CPU thread.

    Args:
        model: a file, or the model itself where it is under 2 GB.
        optimize: False runs the graph as it is written.

    Raises:
        PassError: ONNX Runtime does not take the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as e:
        raise PassError(
            f"ONNX Runtime does not take the model: {str(e).splitlines()[0]}",
            "Look at the operator that the message names.",
        ) from e
    names = [o.name for o in session.get_outputs()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def compare(
    reference: Runner, other: Runner, feeds: Iterable[Arrays], *, atol: float, rtol: float
) -> Difference:
    """Run both on every feed and hold the difference against the tolerance.

    Args:
        reference: gives the right numbers.
        other: gives the numbers to check.
        feeds: input arrays by name, one dictionary a run.
        atol: absolute tolerance, in units of the output (see the module's docstring).
        rtol: relative tolerance.

    Raises:
        PassError: an output is missing, or has another shape or dtype, or differs; names it.
    """
    found = Difference()
    for feed in feeds:
        right, got = reference(feed), other(feed)
        shapes = ", ".join(f"{k}{list(v.shape)}" for k, v in feed.items())
        for name, value in right.items():
            if name not in got:
                raise PassError(f"Output {name!r} is missing from the lowered model.", CHECK_HINT)
            found = found.join(_compare_one(name, shapes, value, got[name], atol, rtol))
    return found


def _compare_one(
    name: str, where: str, right: NDArray[Any], got: NDArray[Any], atol: float, rtol: float
) -> Difference:
    if right.shape != got.shape or right.dtype != got.dtype:
        raise PassError(
            f"Output {name!r} should be {right.dtype}{list(right.shape)} and is "
            f"{got.dtype}{list(got.shape)}, with {where}.",
            "A dynamic dimension became a constant in the export: capture with another example.",
        )
    if right.size == 0:
        return Difference()
    if not np.issubdtype(right.dtype, np.floating):
        wrong = int((right != got).sum())
        if wrong:
            raise PassError(
                f"Output {name!r} differs in {wrong} of {right.size} elements, with {where}.",
                CHECK_HINT,
            )
        return Difference()
    r, g = right.astype(np.float64), got.astype(np.float64)
    same = (r == g) | (np.isnan(r) & np.isnan(g))
    difference = np.where(same, 0.0, np.abs(r - g))
    finite = np.abs(r[np.isfinite(r)])
    top = float(finite.max()) if finite.size else 0.0
    allowed = atol * max(1.0, top) + rtol * np.where(np.isfinite(r), np.abs(r), 0.0)
    worst = float(np.nanmax(difference)) if not np.isnan(difference).any() else float("nan")
    if not (difference <= allowed).all():
        raise PassError(
            f"Output {name!r} differs by {worst:.3g} (largest magnitude {top:.3g}; allowed "
            f"{atol:g} · max(1, {top:.3g}) + {rtol:g} · |reference|), with {where}.",
            CHECK_HINT,
        )
    return Difference(worst, worst / top if top > 0 else 0.0)
