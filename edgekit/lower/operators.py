"""What TensorRT's ONNX parser does not take, as data for machines that have no TensorRT.

`UNSUPPORTED` is what the parser of TensorRT-RTX 1.7.1 answers to `supports_operator` for every
operator of ONNX 1.23's default domain (a test asks an installed one again). The mends come from the
operator's definition in ONNX.

`SINCE` and `DTYPE_SINCE` are from the changelog of onnx-tensorrt, the parser's source: what came
after TensorRT 8.6, which JetPack 6.0 has; JetPack 6.1 and 6.2 have 10.3.
"""

_SEQUENCE = "Return the tensors one by one, or stacked: TensorRT has no sequences."
_TRAINING = "Remove it: it belongs to training."
_TEXT = "Do it before the network: TensorRT has no strings."
_QDQ = "Write QuantizeLinear and DequantizeLinear around the float operator."
_STATIC = "Quantize statically, with calibration data: `edgekit quantize`."
_RANDOM = "Draw the random numbers outside, and give them as an input."
_BITS = "Compute it with integer arithmetic (Mod, Div, Mul), or outside the network."
_SHAPE = "Its result's size depends on the data: do it after the network."
_OWN = "Replace it by operators that TensorRT has, or write a TensorRT plugin."

UNSUPPORTED: dict[str, str] = {
    "AffineGrid": "Write it with MatMul.",
    "Bernoulli": _RANDOM,
    "BitCast": _BITS,
    "BitShift": _BITS,
    "BitwiseAnd": _BITS,
    "BitwiseNot": _BITS,
    "BitwiseOr": _BITS,
    "BitwiseXor": _BITS,
    "CenterCropPad": "Write it with Slice and Pad.",
    "Col2Im": "Write it as a transposed convolution with fixed weights.",
    "Compress": _SHAPE,
    "ConcatFromSequence": _SEQUENCE,
    "ConvInteger": _QDQ,
    "CumProd": _OWN,
    "DFT": "Write it as a MatMul with the constant matrix of sines and cosines.",
    "DeformConv": _OWN,
    "Det": _OWN,
    "DynamicQuantizeLinear": _STATIC,
    "ImageDecoder": "Decode images before the network.",
    "MatMulInteger": _QDQ,
    "MaxRoiPool": "Use RoiAlign.",
    "MaxUnpool": "Use ScatterElements, or a Resize.",
    "MelWeightMatrix": "Fold it into a constant.",
    "Multinomial": _RANDOM,
    "NegativeLogLikelihoodLoss": _TRAINING,
    "Optional": _SEQUENCE,
    "OptionalGetElement": _SEQUENCE,
    "OptionalHasElement": _SEQUENCE,
    "QLinearConv": _QDQ,
    "QLinearMatMul": _QDQ,
    "RegexFullMatch": _TEXT,
    "SequenceAt": _SEQUENCE,
    "SequenceConstruct": _SEQUENCE,
    "SequenceEmpty": _SEQUENCE,
    "SequenceErase": _SEQUENCE,
    "SequenceInsert": _SEQUENCE,
    "SequenceLength": _SEQUENCE,
    "SequenceMap": _SEQUENCE,
    "SoftmaxCrossEntropyLoss": _TRAINING,
    "SplitToSequence": _SEQUENCE,
    "StringConcat": _TEXT,
    "StringNormalizer": _TEXT,
    "StringSplit": _TEXT,
    "SwiGLU": "Write it as Mul and Sigmoid.",
    "TfIdfVectorizer": _TEXT,
    "Unique": _SHAPE,
}

SINCE: dict[str, str] = {
    "Attention": "10.14",
    "BlackmanWindow": "10.4",
    "DeformConv": "10.1",
    "HammingWindow": "10.4",
    "HannWindow": "10.4",
    "Hardmax": "9.2",
    "RMSNormalization": "10.15",
    "RotaryEmbedding": "10.15",
    "STFT": "10.5",
    "TensorScatter": "10.15",
}
DTYPE_SINCE: dict[str, str] = {
    "bfloat16": "9.0",
    "float8_e4m3fn": "9.0",
    "int4": "10.0",
}
STRONGLY_TYPED_SINCE = "10.0"  # of the versions that edgekit builds with
_GROUP_NORM_OPSET, _GROUP_NORM_SINCE = 21, "10.9"


def since(operator: str, opset: int, have: str) -> str:
    """The TensorRT whose parser took an operator first, where that is newer than one; else empty.

    Args:
        operator: of ONNX.
        opset: of the file.
        have: the TensorRT that is there, such as `10.3`; 8.6 is the oldest that is known here.
    """
    found = SINCE.get(operator, "")
    if operator == "GroupNormalization" and opset >= _GROUP_NORM_OPSET:
        found = _GROUP_NORM_SINCE
    return found if found and is_older(have, found) else ""


def is_older(version: str, other: str) -> bool:
    """Whether a version such as `10.3` comes before another."""
    return _order(version) < _order(other)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def mend(operator: str) -> str:
    """What to do about an operator that the parser refuses."""
    return UNSUPPORTED.get(operator, _OWN)
