"""NNCF, driven without its telemetry and its console.

NNCF reports each call to a server through `openvino_telemetry`, writes a client id into the home
folder for it, and draws progress bars on stdout. edgekit promises no network and keeps stdout for
results, so the telemetry package is hidden while NNCF is imported, which makes NNCF install its own
stub, and stdout is held back while it works.
"""

import sys
import threading
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from edgekit.errors import PassError, UnavailableError
from edgekit.quantize.quiet import quiet

if TYPE_CHECKING:
    import onnx

    from edgekit.quantize.calibration import Samples
    from edgekit.quantize.config import PtqConfig

_TELEMETRY = "openvino_telemetry"
_LOCK = threading.Lock()
RANGES = ("min-max", "mean-min-max")  # that NNCF finds; others are put in its place


@dataclass(frozen=True)
class EngineOptions:
    """What a scheme asks of NNCF.

    Attributes:
        symmetric: symmetric activations (NNCF's PERFORMANCE preset), else by sign (MIXED).
        seven_bit_weights: weights limited to 7 bits in all layers.
    """

    symmetric: bool
    seven_bit_weights: bool


def version() -> str:
    """NNCF's version."""
    return metadata.version("nncf")


def load_nncf() -> Any:
    """Import NNCF with a telemetry that cannot send.

    Raises:
        UnavailableError: NNCF is not installed.
    """
    with _LOCK:
        hidden = {n: m for n, m in sys.modules.items() if n.split(".")[0] == _TELEMETRY}
        for name in hidden:
            del sys.modules[name]
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import now fails
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import nncf
        except ImportError as e:
            raise UnavailableError(
                "Quantization needs NNCF, which is not installed.",
                'Install it with: pip install "edgekit[torch]"',
            ) from e
        finally:
            del sys.modules[_TELEMETRY]
            sys.modules.update(hidden)
        _silence_imported()
    return nncf


def _silence_imported() -> None:
    """Take the sender out of an NNCF that somebody else imported before."""
    wrapper = sys.modules.get("nncf.telemetry.wrapper")
    sender: Any = getattr(wrapper, "telemetry", None)
    if type(sender).__name__ == "NNCFTelemetry":
        sender._impl = None


def quantize(
    model: "onnx.ModelProto",
    samples: "Samples",
    config: "PtqConfig",
    options: EngineOptions,
    ignored: list[str],
    seen: int,
) -> "onnx.ModelProto":
    """Run NNCF's post-training quantization.

    Args:
        model: float32, opset 13 or more; not changed.
        samples: calibration samples.
        config: the user's choices.
        options: the scheme's.
        ignored: names of nodes to leave alone.
        seen: samples that ranges are taken from, at least 1.

    Returns:
        A model with QuantizeLinear and DequantizeLinear nodes, weights stored as int8.

    Raises:
        PassError: NNCF failed.
    """
    nncf = load_nncf()
    from nncf.quantization.advanced_parameters import (
        AdvancedSmoothQuantParameters,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    alpha = -1.0 if config.smooth_quant_alpha is None else config.smooth_quant_alpha
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=(
            nncf.OverflowFix.ENABLE if options.seven_bit_weights else nncf.OverflowFix.DISABLE
        ),
        disable_bias_correction=True,  # edgekit.quantize.bias does it, and says why
        activations_range_estimator_params=(
            RangeEstimatorParametersSet.MEAN_MINMAX
            if config.ranges == "mean-min-max"
            else RangeEstimatorParametersSet.MINMAX
        ),
        smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1.0, matmul=alpha),
    )
    if not config.per_channel:
        advanced.weights_quantization_params = QuantizationParameters(per_channel=False)
    preset = nncf.QuantizationPreset
    try:
        with quiet("nncf"):
            return nncf.quantize(  # type: ignore[no-any-return]
                model,
                nncf.Dataset(samples),
                preset=preset.PERFORMANCE if options.symmetric else preset.MIXED,
                subset_size=seen,
                model_type=nncf.ModelType.TRANSFORMER if config.transformer else None,
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
                advanced_parameters=advanced,
            )
    except Exception as e:
        text = str(e).strip().splitlines()
        raise PassError(
            f"NNCF could not quantize the model: {type(e).__name__}: {text[0] if text else ''}",
            "Exclude the operator that the message names (`exclude:`).",
        ) from e
