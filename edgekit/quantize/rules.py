"""The linter's rules as data: what each says, why it matters, and whether it can be mended.

A mend is `exact` where the file computes the same numbers bit for bit; `rounding` where a value is
rounded once less, or with the step of a tensor that it is joined with; `lossy` where levels become
coarser, up to twice the step.
"""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
Kind = Literal["exact", "rounding", "lossy"]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: in kebab-case.
        severity: an error is wrong, refused or slow for certain; a warning may be; a note is
            advice.
        why: what happens on the device.
        mend: what to do.
        kinds: how `--fix` mends it, the best case first; empty where it cannot.
    """

    name: str
    severity: Severity
    why: str
    mend: str
    kinds: tuple[Kind, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something that the scheme does not allow.

    Attributes:
        node: the node's name.
        rule: the rule's name, in kebab-case.
        message: what is wrong.
        mend: what to do.
        severity: an error is wrong or slow for certain; a warning may be; a note is advice.
        kinds: how `--fix` mends it; empty where it cannot.
    """

    node: str
    rule: str
    message: str
    mend: str
    severity: Severity = "error"
    kinds: tuple[Kind, ...] = ()


@dataclass(frozen=True)
class Mended:
    """One thing that was mended.

    Attributes:
        rule: whose finding it was.
        node: the node or tensor that changed.
        kind: how near to the original the numbers stay; see `rules`.
        what: what was done.
    """

    rule: str
    node: str
    kind: Kind
    what: str


def found(rule: str, node: str, message: str) -> Finding:
    """A finding of a rule in the table."""
    held = RULES[rule]
    return Finding(node, rule, message, held.mend, held.severity, held.kinds)


_AGAIN = "Quantize again for this target: `edgekit quantize`."

_ALL = (
    Rule(
        "unknown-operator",
        "error",
        "The runtime has no operator of that domain: it refuses the file.",
        "Export it with ONNX's own operators.",
    ),
    Rule(
        "dynamic-quantization",
        "error",
        "Ranges are found at every run; the target has no kernel for it, or a slow one.",
        "Quantize statically, with calibration data: `edgekit quantize`.",
    ),
    Rule(
        "operator-form",
        "error",
        "TensorRT takes QuantizeLinear and DequantizeLinear only, not integer operators.",
        "Write QuantizeLinear and DequantizeLinear around the float operator.",
    ),
    Rule(
        "contrib-qdq",
        "error",
        "ONNX Runtime's own copy of Q/DQ (com.microsoft) is unknown to other runtimes.",
        "Use ONNX's own operators: they mean the same for 8 bits.",
        ("exact",),
    ),
    Rule(
        "opset",
        "warning",
        "Scales for each channel exist from opset 13 on; before it, Q/DQ is for whole tensors.",
        "Raise the opset to 13.",
        ("exact",),
    ),
    Rule(
        "bit-width",
        "error",
        "The dialect is one of 8 bits; other widths run in float there, or not at all.",
        "Quantize to 8 bits: `edgekit quantize`.",
    ),
    Rule(
        "scale-not-constant",
        "error",
        "A scale that is computed cannot be folded into an integer kernel.",
        "Fold it into an initializer.",
    ),
    Rule(
        "scale-not-positive",
        "error",
        "A scale of zero, or one that is negative or not finite, has no meaning.",
        "Calibrate with data that reaches the layer.",
    ),
    Rule(
        "pair-mismatch",
        "error",
        "QuantizeLinear and its DequantizeLinear disagree: the numbers come back scaled.",
        "Give both one scale and one zero point.",
    ),
    Rule(
        "unpaired",
        "warning",
        "A QuantizeLinear without a DequantizeLinear (or the other way) fuses with nothing.",
        "Write them in pairs.",
    ),
    Rule(
        "activation-dtype",
        "error",
        "The other signedness has slower kernels; TensorRT reads uint8 as int8 without a word.",
        "Write activations in the target's dtype.",
        ("exact", "lossy"),
    ),
    Rule(
        "zero-point",
        "error",
        "TensorRT and the DLA know no zero points: the numbers come out shifted.",
        "Use symmetric ranges, with zero points of 0.",
        ("exact", "lossy"),
    ),
    Rule(
        "activation-per-channel",
        "error",
        "No kernel takes an activation with a scale a channel: the layer runs in float.",
        "Quantize activations with one scale; per channel is for weights.",
        ("exact", "lossy"),
    ),
    Rule(
        "weight-dtype",
        "error",
        "Integer kernels take int8 weights; others are dequantized at every run.",
        "Quantize weights to int8, symmetrically.",
        ("exact", "lossy"),
    ),
    Rule(
        "weight-zero-point",
        "error",
        "Weights with a zero point need a correction that most kernels lack.",
        "Quantize weights symmetrically.",
        ("exact", "lossy"),
    ),
    Rule(
        "weight-axis",
        "error",
        "Scales must run along output channels: a sum over channels has one scale.",
        "Quantize along the output axis.",
        ("lossy",),
    ),
    Rule(
        "weight-per-tensor",
        "note",
        "One scale for all channels loses accuracy where their ranges differ.",
        "Quantize again, per channel.",
    ),
    Rule(
        "weight-bits",
        "error",
        "Without VNNI, x86 adds pairs of u8·s8 products in 16 bits, which saturate.",
        "Limit weights to 7 bits.",
        ("lossy",),
    ),
    Rule(
        "float-weight",
        "warning",
        "A float weight that is quantized at load takes four times the bytes.",
        "Store it as int8 with a DequantizeLinear.",
        ("exact",),
    ),
    Rule(
        "bias-quantized",
        "error",
        "TensorRT wants biases in float: it refuses int32 tensors with Q/DQ.",
        "Keep the bias in float32.",
        ("exact",),
    ),
    Rule(
        "gemm-bias",
        "warning",
        "With a float bias and a float output ONNX Runtime dequantizes the weights at every run.",
        "Write the bias as int32, with the scale of the products.",
        ("rounding",),
    ),
    Rule(
        "conv-add",
        "error",
        "A pair between a convolution and the residual add keeps TensorRT from fusing the two.",
        "Quantize the skip input only.",
        ("rounding",),
    ),
    Rule(
        "skip-input",
        "warning",
        "A residual add whose skip is in float makes the convolution before it write float.",
        _AGAIN,
        ("rounding",),
    ),
    Rule(
        "conv-activation",
        "warning",
        "A pair between a layer and its ReLU keeps the two from fusing.",
        "Put it behind the ReLU.",
        ("exact", "rounding"),
    ),
    Rule(
        "shared-scale",
        "warning",
        "Inputs with different scales are converted one by one before they are joined.",
        "Give them one scale.",
        ("rounding", "lossy"),
    ),
    Rule(
        "several-pairs",
        "warning",
        "A tensor that is quantized several times is written several times.",
        "Let all readers share one pair.",
        ("exact", "rounding"),
    ),
    Rule(
        "high-precision",
        "warning",
        "The operator computes in float there: the pair before it costs time and accuracy.",
        "Take the pair out.",
        ("rounding",),
    ),
    Rule(
        "unfused-layer",
        "warning",
        "The integer kernel has integers on both sides: with a float output the layer dequantizes"
        " its input and weights, and is slower than float32.",
        _AGAIN,
    ),
    Rule(
        "float-layer",
        "warning",
        "ONNX Runtime quantizes float weights between integers at load, with one scale for all"
        " channels.",
        "Write the scale before the layer once for each channel: the same numbers.",
        ("exact",),
    ),
    Rule(
        "narrow-layer",
        "note",
        "With few channels the conversions cost more than the integer kernel saves.",
        "Leave it in float, and measure.",
    ),
    Rule(
        "output-quantized",
        "warning",
        "A pair on an output costs accuracy and time, and nothing reads its integers.",
        "Leave outputs in float.",
        ("rounding",),
    ),
)

RULES: dict[str, Rule] = {rule.name: rule for rule in _ALL}
