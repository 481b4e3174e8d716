"""Optimization profiles: what sizes the dynamic dimensions of an engine's inputs may have."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from edgekit.artifact import TensorSpec

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]

DEFAULT_BATCHES = (1, 1, 8)


def profile_shapes(
    inputs: Sequence["TensorSpec"], shapes: Shapes | None
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """The optimization profile: smallest, usual and largest shape of each dynamic input.

    Args:
        inputs: the model's inputs.
        shapes: the user's.

    Raises:
        UsageError: an unknown input, a shape that does not fit, or a dynamic dimension other than
            the batch without a shape.
    """
    given = dict(shapes or {})
    _check_names(inputs, given)
    found: dict[str, tuple[Shape, Shape, Shape]] = {}
    for spec in inputs:
        dynamic = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str)]
        if spec.name in given:
            found[spec.name] = _checked(spec, given[spec.name])
        elif dynamic == [0]:
            rest = tuple(int(size) for size in spec.shape[1:])
            small, usual, large = ((batch, *rest) for batch in DEFAULT_BATCHES)
            found[spec.name] = (small, usual, large)
        elif dynamic:
            raise UsageError(
                f"Input {spec} has dynamic dimensions besides the batch.",
                f"Give its smallest, usual and largest shape: shapes: {{{spec.name}: [...]}}.",
            )
    return found


def _check_names(inputs: Sequence["TensorSpec"], given: Shapes) -> None:
    unknown = sorted(set(given) - {s.name for s in inputs})
    if unknown:
        raise UsageError(
            f"`shapes` names {', '.join(unknown)}, which the model does not have.",
            f"Its inputs are {', '.join(s.name for s in inputs)}.",
        )


def _checked(spec: "TensorSpec", triple: tuple[Shape, Shape, Shape]) -> tuple[Shape, Shape, Shape]:
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
    return small, usual, large


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
    return {spec.name: _checked(spec, given[spec.name]) for spec in inputs}
