"""What training does that an eval-mode capture does not have, found and told.

An eval graph keeps batch norm and `nn.Dropout`, whose flags can be switched. It loses what stands
behind `if self.training`: attention dropout, stochastic depth, auxiliary heads. The module is
traced once more in training mode and the two graphs are compared; where training mode cannot be
traced, the modules themselves are looked at.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from edgekit.graph.program import module_path
from edgekit.graph.trace import run_export
from edgekit.graph.views import op_name

_RANDOM = ("bernoulli", "rand", "uniform", "normal", "dropout", "multinomial")
_IGNORED = frozenset({"aten::add_", "aten::detach", "aten::_assert_tensor_metadata",
                      "aten::alias", "aten::detach_", "aten::lift_fresh_copy",
                      "aten::_assert_scalar"})  # fmt: skip


def dropped_in_eval(
    module: nn.Module, evaluated: ExportedProgram, inputs: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Train-time behaviour that `evaluated` does not have.

    Args:
        module: in training mode, with the flat forward that was captured.
        evaluated: its capture in eval mode.
        inputs: the examples.

    Returns:
        One sentence for each place, with the module's path.
    """
    try:
        with _momentum(module):
            trained = run_export(torch.export.export, module, tuple(inputs.values()), None)
    except Exception:  # noqa: BLE001 - training code may do anything; then the modules must tell
        return tuple(_from_modules(module))
    return tuple(dict.fromkeys(_compare(trained, evaluated)))


def mend_momentum(module: nn.Module, exported: ExportedProgram) -> tuple[str, ...]:
    """Give batch norms with `momentum=None` the default momentum, and say so.

    Such a layer averages all batches that it ever saw; its eval capture carries a momentum of 0,
    with which its statistics would never move again.
    """
    cumulative = _cumulative(module)
    found = []
    for node in exported.graph.nodes:
        path = module_path(node)
        if op_name(node) == "aten::batch_norm" and path in cumulative:
            node.update_arg(6, 0.1)
            found.append(
                f"{path}: a cumulative average of batch statistics (momentum=None) "
                "became a moving average with momentum 0.1."
            )
    return tuple(dict.fromkeys(found))


def _cumulative(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
        and child.momentum is None
        and child.track_running_stats
    }


@contextmanager
def _momentum(module: nn.Module) -> Iterator[None]:
    """A cumulative average reads a counter's value, which stops the trace: lend it a momentum."""
    found = _cumulative(module)
    try:
        for child in found.values():
            child.momentum = 0.1
        yield
    finally:
        for child in found.values():
            child.momentum = None


def _compare(trained: ExportedProgram, evaluated: ExportedProgram) -> list[str]:
    found: list[str] = []
    before, after = _by_module(evaluated), _by_module(trained)
    for path, nodes in after.items():
        missing = Counter(op_name(n) for n in nodes)
        missing.subtract(Counter(op_name(n) for n in before.get(path, [])))
        where = path or "the outermost module"
        lost = sorted(name.partition("::")[2] for name, count in missing.items() if count > 0)
        random = [name for name in lost if name.startswith(_RANDOM)]
        if path not in before:
            found.append(f"{where}: runs in training only ({', '.join(lost[:4])}).")
        elif random:
            found.append(f"{where}: random behaviour in training ({', '.join(random)}).")
        elif lost:
            found.append(f"{where}: {', '.join(lost[:4])} in training only.")
        probability = max((_attention_dropout(n) for n in nodes), default=0.0)
        if probability > max((_attention_dropout(n) for n in before.get(path, [])), default=0.0):
            found.append(f"{where}: dropout of {probability:g} on attention weights.")
    extra = len(trained.graph_signature.user_outputs) - len(evaluated.graph_signature.user_outputs)
    if extra > 0:
        found.append(f"the outermost module: {extra} more outputs in training (auxiliary heads).")
    return found


def _by_module(exported: ExportedProgram) -> dict[str, list[Node]]:
    """Operators by module. Batch norm counts its batches in training, which nobody misses."""
    found: dict[str, list[Node]] = defaultdict(list)
    modules = [m for m in exported.graph_module.modules() if hasattr(m, "graph")]
    for module in modules:
        for node in module.graph.nodes:
            if op_name(node) and op_name(node) not in _IGNORED:
                found[module_path(node)].append(node)
    return found


def _attention_dropout(node: Node) -> float:
    if op_name(node) != "aten::scaled_dot_product_attention":
        return 0.0
    value = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _from_modules(module: nn.Module) -> list[str]:
    """Names and attributes that tell of train-time behaviour."""
    found = ["The module cannot be traced in training mode; what it does there was not compared."]
    for name, child in module.named_modules():
        kind = type(child).__name__
        if isinstance(child, nn.MultiheadAttention) and child.dropout > 0:
            found.append(f"{name}: dropout of {child.dropout:g} on attention weights.")
        elif kind in {"DropPath", "StochasticDepth", "DropBlock", "DropBlock2d"}:
            found.append(f"{name}: random behaviour in training ({kind}).")
    return found
