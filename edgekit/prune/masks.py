"""The zero-mask oracle: proof that a smaller network computes what it should.

A copy of the original runs with every tensor in it set to zero at the removed indices, right after
it is computed (after activations too, since sigmoid(0) is not 0). Sums over a removed index then
lack that index, and everything else acts on kept indices alone: its outputs must be those of the
shrunk network. An operator that mixes indices (softmax, maximum) along a removed dimension breaks
the equality, and is found out. Normalisations and means are taken over what stays, by formulas of
their own (`edgekit.prune.statistics`).
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_aggregate, map_arg

from edgekit.prune import subgraphs
from edgekit.prune.coupling import Coupling
from edgekit.prune.shrink import Keep
from edgekit.prune.statistics import over_kept

Removed = dict[str, list[tuple[int, Tensor]]]  # node to axes and positions on them


class MaskedInterpreter(Interpreter):
    """Runs the analysed graph with removed indices set to zero in every tensor.

    Args:
        module: the graph, or one of its sub-graphs.
        removed: see `removed_of`.
        path: of the sub-graph in the outermost module, empty for that itself.
    """

    def __init__(self, module: GraphModule, removed: dict[str, Removed], path: str = "") -> None:
        super().__init__(module)
        self.everywhere, self.path = removed, path
        self.removed = removed.get(path, {})

    def run_node(self, n: Node) -> Any:
        """Run one node, then clear what was removed."""
        result = self._over_kept(n)
        if result is None:
            result = super().run_node(n)
        return result if n.op == "get_attr" else self._masked(n, result)

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:  # noqa: ARG002 - the base class has it
        """Clear weights where they are read: all at once they would be a second network."""

        def value(node: Node) -> Any:
            found = self.env[node]
            return self._masked(node, found) if node.op == "get_attr" else found

        return map_arg(args, value)

    def _masked(self, n: Node, result: Any) -> Any:
        if isinstance(result, Tensor):
            for axis, index in self.removed.get(n.name, ()):
                # index_fill, not a product: it clears NaN and infinity too.
                result = result.index_fill(axis, index.to(result.device), 0)
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run sub-graphs like the graph itself: inside they clear what was removed too."""
        if isinstance(target, HigherOrderOperator):
            found = subgraphs.run(target.__name__, args, self._inside)
            if found is not None:
                return found
        return super().call_function(target, args, kwargs)

    def _inside(self, body: GraphModule, operands: Sequence[Any]) -> Any:
        name = next(name for name, child in self.module.named_modules() if child is body)
        path = f"{self.path}.{name}" if self.path else name
        return MaskedInterpreter(body, self.everywhere, path).run(*operands)

    def _over_kept(self, n: Node) -> Any:
        if n.op != "call_function":
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return over_kept(n, self.removed, args, kwargs)


def removed_of(coupling: Coupling, keep: Keep) -> dict[str, Removed]:
    """What goes of each tensor: sub-graph (empty for the outermost graph) to nodes."""
    paths = {
        child.graph: name
        for name, child in coupling.module.named_modules()
        if isinstance(child, GraphModule)
    }
    found: dict[str, Removed] = {}
    for node, value in coupling.values.items():
        dims = value if isinstance(value, tuple) else ()
        cuts = [(axis, keep.removed(dim)) for axis, dim in enumerate(dims)]
        found.setdefault(paths[node.graph], {})[node.name] = [
            (axis, cut) for axis, cut in cuts if cut is not None
        ]
    return found


def masked_outputs(
    module: GraphModule, coupling: Coupling, keep: Keep, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Outputs of the original network with removed indices set to zero.

    Args:
        module: the original, or a copy in another precision.
        coupling: its analysis.
        keep: which indices stay.
        inputs: in the module's order.
    """
    with torch.no_grad():
        outputs = MaskedInterpreter(module, removed_of(coupling, keep)).run(*inputs)
    return tuple(outputs)


def difference(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Largest difference of two sets of outputs, relative to the largest magnitude expected.

    Returns:
        the error; infinite where shapes, or the places of NaN and infinity, differ, and where no
        number was finite: nothing was compared then.
    """
    worst, compared = 0.0, False
    for a, b in zip(expected, actual, strict=True):
        if a.shape != b.shape or a.dtype.is_floating_point != b.dtype.is_floating_point:
            return float("inf")
        a, b = a.double(), b.double()
        finite = torch.isfinite(a)
        if not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
            return float("inf")  # infinities become the largest numbers, NaN becomes 0
        if not torch.equal(finite, torch.isfinite(b)):
            return float("inf")
        if not finite.any():
            continue
        compared = True
        scale = max(float(a[finite].abs().max()), 1e-3)
        worst = max(worst, float((a[finite] - b[finite]).abs().max()) / scale)
    return worst if compared else float("inf")


def in_double(module: GraphModule) -> GraphModule:
    """A copy in float64, constants included, so that a real error stands out from rounding."""
    with warnings.catch_warnings():
        # torch's own copy of a graph module uses what torch deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        twin = copy.deepcopy(module)
    for child in twin.modules():
        for name, value in list(vars(child).items()):
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(child, name, value.double())
        if isinstance(child, GraphModule):
            for node in child.graph.nodes:
                node.args = map_aggregate(node.args, _doubled_dtype)
                node.kwargs = map_aggregate(node.kwargs, _doubled_dtype)
                if _makes_default_dtype(node):
                    node.update_kwarg("dtype", torch.float64)
            child.recompile()
    return twin.double()


def _makes_default_dtype(node: Node) -> bool:
    """Whether an operator makes a tensor from none (`zeros`, `full`), in torch's default dtype."""
    made, schema = node.meta.get("val"), getattr(node.target, "_schema", None)
    if schema is None or not isinstance(made, Tensor) or made.dtype != torch.float32:
        return False
    arguments = {argument.name: str(argument.type) for argument in schema.arguments}
    return (
        "Tensor" not in " ".join(arguments.values())
        and "dtype" in arguments
        and node.kwargs.get("dtype") is None
    )


def _doubled_dtype(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def doubled(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Floating inputs in float64."""
    return tuple(t.double() if t.is_floating_point() else t for t in inputs)


def plain_outputs(module: GraphModule, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Outputs of a network as it is."""
    with torch.no_grad():
        return tuple(module(*inputs))
