"""Optimization profiles: what sizes the dynamic dimensions of an engine's inputs may have."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from edgekit.artifact import TensorSpec

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]
Triple = tuple[int, int, int]

DEFAULT_BATCHES: Triple = (1, 1, 8)
_MULTIPLE = re.compile(r"(\d+)\s*\*\s*(\w+)")


def profile_shapes(
    inputs: Sequence["TensorSpec"], shapes: Shapes | None
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """The optimization profile: smallest, usual and largest shape of each dynamic input.

    Args:
        inputs: the model's inputs.
        shapes: the user's. Dimensions of the same name follow them in the other inputs.

    Raises:
        UsageError: an unknown input, a shape that does not fit, or a dynamic dimension other than
            the batch without a shape.
    """
    given = dict(shapes or {})
    _check_names(inputs, given)
    sizes: dict[str, Triple] = {}
    found = {s.name: _checked(s, given[s.name], sizes) for s in inputs if s.name in given}
    for spec in inputs:
        dynamic = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str)]
        if spec.name in given or not dynamic:
            continue
        unknown = [axis for axis in dynamic if _parts(spec.shape[axis])[1] not in sizes]
        if unknown not in ([], [0]):
            raise UsageError(
                f"Input {spec} has dynamic dimensions besides the batch.",
                f"Give its smallest, usual and largest shape: `--shapes {spec.name}=MIN/OPT/MAX`,"
                f" such as 1x3x224x224 for each; in a recipe `shapes: {{{spec.name}: [...]}}`.",
            )
        found[spec.name] = _derived(spec, sizes)
    return {spec.name: found[spec.name] for spec in inputs if spec.name in found}


def _derived(spec: "TensorSpec", sizes: Mapping[str, Triple]) -> tuple[Shape, Shape, Shape]:
    """A shape from the sizes that are known by name, and the default batches."""

    def size(dim: int | str, place: int) -> int:
        factor, name = _parts(dim)
        return factor * (sizes.get(name, DEFAULT_BATCHES)[place] if name else 1)

    small, usual, large = (tuple(size(dim, place) for dim in spec.shape) for place in range(3))
    return small, usual, large


def _parts(dim: int | str) -> tuple[int, str]:
    """A dimension as a factor and a name: `16*h` is 16 and h, a number has no name.

    >>> _parts("16*h"), _parts("batch"), _parts(3)
    ((16, 'h'), (1, 'batch'), (3, ''))
    """
    if isinstance(dim, int):
        return dim, ""
    multiple = _MULTIPLE.fullmatch(dim)
    return (int(multiple[1]), multiple[2]) if multiple else (1, dim)


def _check_names(inputs: Sequence["TensorSpec"], given: Shapes) -> None:
    unknown = sorted(set(given) - {s.name for s in inputs})
    if unknown:
        raise UsageError(
            f"`shapes` names {', '.join(unknown)}, which the model does not have.",
            f"Its inputs are {', '.join(s.name for s in inputs)}.",
        )


def _checked(
    spec: "TensorSpec", triple: tuple[Shape, Shape, Shape], sizes: dict[str, Triple]
) -> tuple[Shape, Shape, Shape]:
    """The three shapes, where they fit; the sizes of named dimensions are added to `sizes`."""
    small, usual, large = (tuple(int(v) for v in shape) for shape in triple)
    fits = all(len(s) == len(spec.shape) for s in (small, usual, large)) and all(
        1 <= a <= b <= c and (isinstance(size, str) or size == a == c)
        for size, a, b, c in zip(spec.shape, small, usual, large, strict=True)
    )
    if not fits:
        raise UsageError(
            f"The shapes {small}, {usual}, {large} do not fit input {spec}.",
            "Give smallest <= usual <= largest, and the fixed sizes as they are.",
        )
    for dim, *three in zip(spec.shape, small, usual, large, strict=True):
        factor, name = _parts(dim)
        if not name:
            continue
        if any(size % factor for size in three):
            raise UsageError(
                f"The shapes {small}, {usual}, {large} do not fit input {spec}.",
                f"Dimension {dim} takes multiples of {factor} only.",
            )
        own: Triple = (three[0] // factor, three[1] // factor, three[2] // factor)
        if sizes.setdefault(name, own) != own:
            raise UsageError(
                f"The shapes of input {spec} give {name!r} as {_text(own)}, and elsewhere it is"
                f" {_text(sizes[name])}.",
                "Dimensions of one name have one size: give the same ones.",
            )
    return small, usual, large


def _text(sizes: Triple) -> str:
    return "/".join(str(size) for size in sizes)


def profile_of(
    model: "onnx.ModelProto", shapes: Shapes | None
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """The shapes that a user gives, held against a model's inputs; no defaults.

    Raises:
        UsageError: an unknown input, or a shape that does not fit.
    """
    from edgekit.graph.onnx_model import specs

    given = dict(shapes or {})
    inputs = [spec for spec in specs(model)[0] if spec.name in given]
    _check_names(specs(model)[0], given)
    sizes: dict[str, Triple] = {}
    return {spec.name: _checked(spec, given[spec.name], sizes) for spec in inputs}
