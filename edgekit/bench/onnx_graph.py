"""The nodes of an ONNX file and what connects them, read without the onnx package.

A device has the runtime and NumPy. What a profile needs of a file is its skeleton: a few fields of
protocol buffers (https://protobuf.dev/programming-guides/encoding), whose numbers onnx.proto fixes.
Tensor data is stepped over, so that a large file costs no memory.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT = 1, 5, 11
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_DOMAIN = 1, 2, 3, 4, 7
TENSOR_NAME, VALUE_NAME = 8, 1


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: its name, or where it has none the name of its first output.
        op: operator.
        domain: of the operator; empty for ONNX's own.
        inputs: names of tensors; an empty one is left out on purpose.
        outputs: names of tensors.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The main graph of a model, in the order of the file.

    Attributes:
        nodes: its nodes.
        constants: names of initializers.
        inputs: names of inputs.
    """

    nodes: tuple[Node, ...]
    constants: frozenset[str]
    inputs: frozenset[str]


def read_graph(path: Path) -> Graph:
    """Read the skeleton of an ONNX file.

    Raises:
        ValueError: it is not one.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number, start, end in _fields(data, 0, len(data)):
            if number == MODEL_GRAPH:
                return _graph(data, start, end)
    raise ValueError(f"{path} holds no graph.")


def _graph(data: mmap.mmap, start: int, end: int) -> Graph:
    nodes: list[Node] = []
    constants: set[str] = set()
    inputs: set[str] = set()
    for number, first, last in _fields(data, start, end):
        if number == GRAPH_NODE:
            nodes.append(_node(data, first, last))
        elif number == GRAPH_INITIALIZER:
            constants.update(_texts(data, first, last, TENSOR_NAME))
        elif number == GRAPH_INPUT:
            inputs.update(_texts(data, first, last, VALUE_NAME))
    return Graph(tuple(nodes), frozenset(constants), frozenset(inputs - constants))


def _node(data: mmap.mmap, start: int, end: int) -> Node:
    found: dict[int, list[str]] = {
        n: [] for n in (NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_DOMAIN)
    }
    for number, first, last in _fields(data, start, end):
        if number in found:
            found[number].append(data[first:last].decode("utf-8", "replace"))
    outputs = tuple(found[NODE_OUTPUT])
    names = [*found[NODE_NAME], *outputs, ""]
    return Node(
        next((name for name in names if name), ""),
        "".join(found[NODE_OP][-1:]),
        "".join(found[NODE_DOMAIN][-1:]),
        tuple(found[NODE_INPUT]),
        outputs,
    )


def _texts(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[str]:
    for number, first, last in _fields(data, start, end):
        if number == wanted:
            yield data[first:last].decode("utf-8", "replace")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Each field of a message that has a length: its number, and where its bytes are."""
    place = start
    while place < end:
        key, place = _varint(data, place, end)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            _, place = _varint(data, place, end)
        elif kind in (FIXED64, FIXED32):
            place += 8 if kind == FIXED64 else 4
        elif kind == BYTES:
            length, place = _varint(data, place, end)
            if length > end - place:
                raise ValueError("A field is longer than its message.")
            yield number, place, place + length
            place += length
        else:
            raise ValueError(f"There is no wire type {kind}.")


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("A number does not end.")
