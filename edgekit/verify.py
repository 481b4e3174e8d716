"""Numeric comparison of two artifacts' outputs. A tolerance is always given, never assumed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgekit.errors import GateError, UsageError

Arrays = Mapping[str, NDArray[Any]]


class OutputParity(BaseModel):
    """How far one output of two artifacts is apart.

    Attributes:
        max_abs: largest absolute difference.
        max_rel: largest difference relative to the reference, where the reference is not tiny
            (over 10⁻³ of its largest magnitude).
        sqnr_db: signal to quantization noise ratio, 10·log10(Σr²/Σ(r−x)²); None where equal.
        cosine: cosine similarity of the flattened outputs; None where one of them is all zero.
        agreement: share of rows whose largest element stands at the same place, for outputs of
            shape (batch, classes); None for other shapes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_abs: float
    max_rel: float
    sqnr_db: float | None
    cosine: float | None
    agreement: float | None = None


def compare(reference: Arrays, other: Arrays) -> dict[str, OutputParity]:
    """Compare two artifacts' outputs on the same inputs.

    Args:
        reference: outputs by name.
        other: outputs by name; the same names and shapes.

    Raises:
        UsageError: names or shapes differ, or an output is not finite.
    """
    if set(reference) != set(other):
        raise UsageError(
            f"The outputs differ: {sorted(reference)} against {sorted(other)}.",
            "Compare two forms of one network.",
        )
    return {name: _compare_one(name, reference[name], other[name]) for name in reference}


def _compare_one(name: str, reference: NDArray[Any], other: NDArray[Any]) -> OutputParity:
    if reference.shape != other.shape:
        raise UsageError(
            f"Output {name!r} has shape {reference.shape} in one and {other.shape} in the other.",
            "Compare two forms of one network.",
        )
    r, x = reference.astype(np.float64), other.astype(np.float64)
    for what, values in (("reference", r), ("other", x)):
        if not np.isfinite(values).all():
            raise UsageError(
                f"Output {name!r} of the {what} model holds NaN or infinity.",
                "Look at the model with these inputs; no difference can be stated.",
            )
    if r.size == 0:
        return OutputParity(max_abs=0.0, max_rel=0.0, sqnr_db=None, cosine=None)
    difference = np.abs(r - x)
    magnitude = np.abs(r)
    counted = magnitude > 1e-3 * magnitude.max()
    noise = float(np.square(difference).sum())
    signal = float(np.square(r).sum())
    norms = float(np.linalg.norm(r) * np.linalg.norm(x))
    rows = r.ndim == 2 and r.shape[1] > 1
    return OutputParity(
        max_abs=float(difference.max()),
        max_rel=float((difference[counted] / magnitude[counted]).max()) if counted.any() else 0.0,
        sqnr_db=10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None,
        cosine=float((r * x).sum()) / norms if norms > 0 else None,
        agreement=float((r.argmax(1) == x.argmax(1)).mean()) if rows else None,
    )


def check(
    parity: Mapping[str, OutputParity],
    *,
    atol: float | None = None,
    min_sqnr_db: float | None = None,
    min_agreement: float | None = None,
) -> None:
    """Hold a comparison against limits.

    Args:
        parity: from `compare`.
        atol: largest absolute difference allowed.
        min_sqnr_db: smallest signal to noise ratio allowed, decibels.
        min_agreement: smallest share of rows with the same largest element.

    Raises:
        GateError: a limit is not held; names the output and the figure.
    """
    failures = []
    for name, p in parity.items():
        if atol is not None and p.max_abs > atol:
            failures.append(f"{name}: largest difference {p.max_abs:.3g} is over {atol:g}")
        if min_sqnr_db is not None and p.sqnr_db is not None and p.sqnr_db < min_sqnr_db:
            failures.append(f"{name}: SQNR {p.sqnr_db:.1f} dB is under {min_sqnr_db:g} dB")
        if min_agreement is not None:
            if p.agreement is None:
                failures.append(f"{name}: agreement needs an output of shape (batch, classes)")
            elif p.agreement < min_agreement:
                failures.append(f"{name}: agreement {p.agreement:.4f} is under {min_agreement:g}")
    if failures:
        raise GateError(
            "The two models differ: " + "; ".join(failures) + ".",
            "Raise the limit if this difference is acceptable.",
        )
