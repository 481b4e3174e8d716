"""Writing a model for another runtime."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.pipeline.preflight import onnx_file

if TYPE_CHECKING:
    from edgekit.lower.convert import Conversion, Kind


def convert_model(
    model: Path,
    out: Path,
    kind: "Kind",
    *,
    fp16: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> "Conversion":
    """Write an ONNX model as another runtime wants it; see `edgekit.lower.convert.convert_onnx`.

    Args:
        model: an `.onnx` file, or the folder of an artifact of that format.
        out: the folder to write; whole or not at all.
        kind: `ort` or `openvino`.
        fp16: store OpenVINO's weights in float16.
        atol: absolute tolerance of the comparison.
        rtol: relative tolerance of the comparison.
        seed: of the random inputs.

    Raises:
        EdgekitError: as `convert_onnx` says.
    """
    from edgekit.lower.convert import convert_onnx

    path, _ = onnx_file(model)
    return convert_onnx(path, out, kind, fp16=fp16, atol=atol, rtol=rtol, seed=seed)
