"""Kernels find their nodes again: by tensors, across layouts, sums and renamed parts."""

from edgekit.bench.fusion import groups
from edgekit.bench.onnx_graph import Graph, Node


def graph(*lines: str, inputs: str = "x", constants: str = "") -> Graph:
    """Each line is `name op inputs -> outputs`."""
    nodes = []
    for line in lines:
        left, right = line.split("->")
        name, op, *feeds = left.split()
        nodes.append(Node(name, op, "", tuple(feeds), tuple(right.split())))
    return Graph(tuple(nodes), frozenset(constants.split()), frozenset(inputs.split()))


def found(original: Graph, optimized: Graph) -> list[tuple[str, ...]]:
    return [group.nodes for group in groups(original, optimized)]


RESIDUAL = graph(
    "conv1 Conv x w1 -> a",
    "relu1 Relu a -> b",
    "conv2 Conv b w2 -> c",
    "add Add c x -> d",
    "relu2 Relu d -> e",
    "pool MaxPool e -> y",
    constants="w1 w2",
)


def test_a_fused_kernel_stands_for_all_that_lies_between_its_tensors():
    optimized = graph(
        "relu1 FusedConv x w1 -> b", "conv2 Conv b w2 -> c", "add Add c x -> d",
        "relu2 Relu d -> e", "pool MaxPool e -> y", constants="w1 w2",
    )  # fmt: skip
    assert found(RESIDUAL, optimized) == [
        ("conv1", "relu1"), ("conv2",), ("add",), ("relu2",), ("pool",)
    ]  # fmt: skip


def test_in_blocked_layout_a_sum_and_an_activation_go_to_the_convolution_before_them():
    optimized = graph(
        "in ReorderInput x -> r0",
        "relu1_nchwc Conv r0 v1 -> r1",
        "conv2_nchwc Conv r1 v2 r0 -> r2",
        "pool_nchwc_token_7 MaxPool r2 -> r3",
        "out ReorderOutput r3 -> y",
        constants="v1 v2",
    )
    layers = groups(RESIDUAL, optimized)
    assert [each.nodes for each in layers] == [
        (), ("conv1", "relu1"), ("conv2", "add", "relu2"), ("pool",), ()
    ]  # fmt: skip
    assert layers[-1].after == ("pool",)


def test_a_blocked_kernel_may_be_called_after_the_tensor_of_its_node():
    optimized = graph(
        "in ReorderInput x -> r0",
        "b_nchwc Conv r0 v1 -> r1",
        "c_nchwc Conv r1 v2 r0 -> r2",
        "y_nchwc MaxPool r2 -> r3",
        "out ReorderOutput r3 -> y",
        constants="v1 v2",
    )
    assert found(RESIDUAL, optimized) == [
        (), ("conv1", "relu1"), ("conv2", "add", "relu2"), ("pool",), ()
    ]  # fmt: skip


def test_an_activation_that_runs_by_itself_is_not_swallowed():
    original = graph("conv Conv x w -> a", "relu Relu a -> b", "last Conv b w -> y", constants="w")
    optimized = graph(
        "conv_nchwc Conv x w -> r1", "relu_nchwc Relu r1 -> r2", "last_nchwc Conv r2 w -> r3",
        "out ReorderOutput r3 -> y", constants="w",
    )  # fmt: skip
    assert found(original, optimized) == [("conv",), ("relu",), ("last",), ()]


def test_kernels_joined_by_the_runtimes_own_tensors_are_one_group():
    original = graph("mm MatMul x w -> a", "add Add a b -> c", "act Gelu c -> y", constants="w b")
    optimized = graph(
        "in Reshape x s -> t0", "mm/MatMulAddFusion Gemm t0 w b -> t1", "out Reshape t1 s -> c",
        "act Gelu c -> y", constants="w b s",
    )  # fmt: skip
    layers = groups(original, optimized)
    assert [each.kernels for each in layers] == [(0, 1, 2), (3,)]
    assert [each.nodes for each in layers] == [("mm", "add"), ("act",)]


def test_an_int8_kernel_takes_the_quantizers_on_both_sides_and_names_the_layer_alone():
    original = graph(
        "q Q0 x s -> a", "q/DQ DequantizeLinear a s -> b", "w/DQ DequantizeLinear w s -> wf",
        "conv Conv b wf -> c", "relu Relu c -> d", "relu/Q QuantizeLinear d s -> e",
        "relu/DQ DequantizeLinear e s -> y", constants="w s",
    )  # fmt: skip
    optimized = graph(
        "q Q0 x s -> a", "Transpose Transpose a -> t0", "conv_token_4 QLinearConv t0 w s -> t1",
        "Transpose_token_5 Transpose t1 -> e", "relu/DQ DequantizeLinear e s -> y",
        constants="w s",
    )  # fmt: skip
    layers = groups(original, optimized)
    assert layers[2].nodes == ("conv", "relu")
    assert layers[1].after == ("q",)
    assert layers[-1].nodes == ("relu/DQ",)


def test_weights_folded_into_constants_belong_to_no_kernel():
    original = graph("t Transpose w -> wt", "mm MatMul x wt -> y", constants="w")
    optimized = graph("mm MatMul x wt -> y", constants="wt")
    assert found(original, optimized) == [("mm",)]


def test_a_node_called_as_the_runtimes_own_transpose_is_not_taken_for_it():
    original = graph("Transpose Transpose x -> a", "conv Conv a w -> y", constants="w")
    optimized = graph(
        "Transpose Transpose x -> a", "Transpose_token_1 Transpose a -> t0",
        "conv NhwcConv t0 w -> t1", "Transpose_token_2 Transpose t1 -> y", constants="w",
    )  # fmt: skip
    assert found(original, optimized) == [("Transpose",), (), ("conv",), ()]
