"""What stays in float: the excluded layers, and what stands between them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekit.quantize.config import PtqConfig
from edgekit.quantize.prepare import exclusions, prepare
from edgekit.target import IntegerScheme

LIGHT = "the layers before or behind it stay in float"


def chain(*links: str) -> onnx.ModelProto:
    """Each link is `name op inputs`; a Conv has a weight of its own, and makes `<name>`."""
    nodes, weights = [], []
    for link in links:
        name, op, *inputs = link.split()
        if op == "Conv":
            weights.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), f"{name}.w"))
            inputs.append(f"{name}.w")
        nodes.append(helper.make_node(op, inputs, [name], name=name))
    ends = [helper.make_tensor_value_info(n, 1, [1, 4, 2, 2]) for n in ("x", nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


NETWORK = chain(
    "pre Sigmoid x", "a Conv pre", "m Mul a a", "b Conv m", "n Mul b b", "c Conv n",
    "add Add c n", "d Conv add", "end Sigmoid d",
)  # fmt: skip


@pytest.mark.parametrize(
    ("excluded", "light"),
    [
        (["a"], {"pre", "m"}),
        (["b"], {"m", "n"}),  # the sum has an int8 layer before it, and one behind
        (["a", "b"], {"pre", "m", "n"}),
        (["d"], {"add", "end"}),
        ([], set()),
    ],
)
def test_what_no_int8_layer_reads_or_makes_is_not_quantized(
    schemes: dict[str, IntegerScheme], excluded: list[str], light: set[str]
) -> None:
    found = exclusions(NETWORK, PtqConfig(exclude=tuple(excluded)), schemes["ort-x86-avx2"])
    assert {n for n, why in found.items() if why == LIGHT} == light


def test_tensorrt_places_its_pairs_by_rules_of_its_own(schemes: dict[str, IntegerScheme]) -> None:
    found = exclusions(NETWORK, PtqConfig(exclude=("a",)), schemes["tensorrt"])
    assert set(found) == {"a"}


def test_an_old_opset_is_raised_and_it_is_said(residual: Path) -> None:
    """Scales for each channel exist from opset 13 on."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc")]
    shapes = {"x": [2, 4], "y": [2, 3]}
    ends = {n: [helper.make_tensor_value_info(n, 1, s)] for n, s in shapes.items()}
    arrays = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    held = [numpy_helper.from_array(v, k) for k, v in arrays.items()]
    graph = helper.make_graph(nodes, "g", ends["x"], ends["y"], held)
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    made, said = prepare(old)
    assert next(o.version for o in made.opset_import if not o.domain) >= 13
    assert "The opset was raised from 11 to 13." in said
    _, said = prepare(onnx.load(residual))
    assert not [w for w in said if "opset" in w]
