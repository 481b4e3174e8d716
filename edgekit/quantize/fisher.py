"""What the rounding of each layer's weights adds to the loss, by the empirical Fisher matrix.

Near a minimum the loss grows by ½ Δwᵀ H Δw. For H stands the diagonal of the empirical Fisher
matrix, F_w = E[(∂L/∂w)²] over samples, so that Ω = ½ Σ_w F_w (w - Q(w))² for one layer; Q is
rounding to the nearest symmetric integer with a scale for each output channel. HAWQ-V2 (Dong et
al., 2019, https://arxiv.org/abs/1911.03852) ranks layers by a mean curvature times ‖w - Q(w)‖²;
FIT (Zandonati et al., 2022, https://arxiv.org/abs/2210.08502) takes the Fisher matrix for it. The
rounding of activations is not in it.

A scale that a batch norm puts on a channel is on w and on Q(w), and its inverse on ∂L/∂w: folding
it into the weights changes nothing.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
_RECURRENT = re.compile(r"weight_(?:ih|hh|hr)_l(\d+)(?:_reverse)?")


def rounded(weight: Array, bits: int = 8, axis: int = 0) -> NDArray[np.float64]:
    """Weights rounded to symmetric integers.

    Args:
        weight: any shape of at least one axis.
        bits: of the integers: 8 for -127 to 127, 7 for -64 to 64.
        axis: of the output channels, each with its own scale.

    Returns:
        float64, shaped as `weight`.
    """
    w = np.asarray(weight, np.float64)
    top = 127 if bits == 8 else 64
    others = tuple(a for a in range(w.ndim) if a != axis)
    scale = np.abs(w).max(axis=others, keepdims=True, initial=0.0) / top
    steps = np.rint(np.divide(w, scale, out=np.zeros_like(w), where=scale > 0))
    return np.asarray(steps * scale)


def added_loss(weight: Array, squares: Array, bits: int = 8, axis: int = 0) -> float:
    """½ Σ F (w - Q(w))² of one weight.

    Args:
        weight: any shape.
        squares: the diagonal of its Fisher matrix, shaped as `weight`.
        bits: of the integers.
        axis: of the output channels.

    Returns:
        In units of the loss.
    """
    lost = np.asarray(weight, np.float64) - rounded(weight, bits, axis)
    return float(0.5 * (np.asarray(squares, np.float64) * np.square(lost)).sum())


def by_layer(
    weights: Mapping[str, Array],
    squares: Mapping[str, Array],
    layers: Iterable[tuple[str, str, str]],
    bits: int = 8,
) -> dict[str, float | None]:
    """The added loss of each layer of an ONNX file, from the parameters of the module it came from.

    Args:
        weights: by parameter name.
        squares: the diagonal of the Fisher matrix, by parameter name.
        layers: (node, path of the user's module, operator), in topological order.
        bits: of the integers.

    Returns:
        By node, in units of the loss; None where the module has no such parameter.
    """
    seen: dict[str, int] = {}
    found: dict[str, float | None] = {}
    for node, path, op in layers:
        place = seen.get(path, 0)
        seen[path] = place + 1
        axis = 1 if op == "ConvTranspose" else 0
        names = [n for n in weights if _belongs(n, path, place) and n in squares]
        parts = [added_loss(weights[n], squares[n], bits, axis) for n in names]
        found[node] = sum(parts) if parts else None
    return found


def _belongs(name: str, path: str, place: int) -> bool:
    """Whether a parameter is the weight of a module's layer; of stacked ones, of the place-th."""
    module, _, last = name.rpartition(".")
    if module != path:
        return False
    stacked = _RECURRENT.fullmatch(last)
    return int(stacked[1]) == place if stacked else last == "weight"
