"""What TensorRT-RTX's parser takes and its builder then refuses, or dies of, as data.

Each row was tried with TensorRT-RTX 1.7.1, one operator in a file, built for 7.5 and 8.6. The
builder speaks in names of its own, or ends the process without a word; here a node is named, and a
mend, before it is asked. A later version may take what this one does not: there a row is a warning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.bench.engine import library

if TYPE_CHECKING:
    import onnx

TRIED = (1, 7)  # the version of the rows
AMPERE = 8.0
PRODUCTS = frozenset({"Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})

Dtypes = Mapping[str, str]


@dataclass(frozen=True)
class Limit:
    """A node that the builder does not take.

    Attributes:
        node: its name.
        operator: its ONNX operator.
        message: what is wrong.
        mend: what to do.
        fatal: the builder ends the process instead of refusing it.
    """

    node: str
    operator: str
    message: str
    mend: str
    fatal: bool = False


def limits(
    model: "onnx.ModelProto", capabilities: Sequence[str], dtypes: Dtypes
) -> tuple[Limit, ...]:
    """The nodes that the builder does not take, in order.

    Args:
        model: its nodes outside sub-graphs are looked at.
        capabilities: compute capabilities to build for, such as `7.5`.
        dtypes: NumPy names of its tensors' dtypes, as far as they are known.
    """
    old = [c for c in capabilities if float(c) < AMPERE]
    return tuple(found for node in model.graph.node for found in _of(node, dtypes, old))


def known_here() -> bool:
    """Whether the rows are of the version that is installed, or none newer is."""
    ok, version, _ = library.available("tensorrt-rtx")
    numbers = tuple(int(part) for part in version.split(".")[:2]) if ok else TRIED
    return numbers <= TRIED


def _of(node: "onnx.NodeProto", dtypes: Dtypes, old: Sequence[str]) -> Iterator[Limit]:
    if node.domain not in {"", "ai.onnx"}:
        return
    kind = node.op_type
    dtype = dtypes.get(node.input[0], "") if node.input else ""
    if kind == "Attention" and len(set(node.input[:2])) == 1:
        yield Limit(
            node.name,
            kind,
            "the builder crashes where query and key of Attention are one tensor",
            "Export with --opset 22 or older, which writes attention as MatMul and Softmax.",
            fatal=True,
        )
    elif kind == "Attention" and dtype == "float32":
        yield Limit(
            node.name,
            kind,
            "the builder has no float32 kernel for Attention",
            "Cast it with `edgekit cast`, or export with --opset 22 or older.",
        )
    elif kind == "NonMaxSuppression":
        yield Limit(
            node.name,
            kind,
            "the builder has no kernel for NonMaxSuppression",
            "Leave `boxes` out of the export and decode them after the network.",
        )
    elif kind == "ConvTranspose" and dtype == "bfloat16":
        yield Limit(
            node.name,
            kind,
            "the builder has no bfloat16 ConvTranspose",
            "Cast with --exclude ConvTranspose, or with --precision float16.",
        )
    if old and dtype == "bfloat16":
        yield Limit(
            node.name,
            kind,
            f"compute capability {', '.join(old)} has no bfloat16",
            "Cast to float16.",
        )
    elif old and kind in PRODUCTS and dtype == "float32":
        yield Limit(
            node.name,
            kind,
            f"compute capability {', '.join(old)} multiplies no float32 matrices",
            "Cast it to float16 with `edgekit cast`, for a target of that capability.",
        )
