"""Which layers can be fitted to data, and what they read, as rows of a linear equation."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional

from edgekit.prune.atoms import Fixed
from edgekit.prune.coupling import Coupling, attribute, bind
from edgekit.prune.shrink import Keep


class Rows(Protocol):
    """From a tensor, and which of its positions (all without), to one row for each."""

    def __call__(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Shape (positions, columns)."""


_FITTABLE = ("linear", "conv1d", "conv2d")


@dataclass(frozen=True)
class Layer:
    """A layer that can be fitted: y = W x + b over rows of x, in one or more groups.

    Attributes:
        node: the operator's call.
        source: what it reads.
        weight_name: the weight's name.
        weight: shape (out, in/groups, *kernel).
        bias: shape (out,), or None.
        mean: running mean of the batch norm right behind a layer without a bias: it takes a shift.
        outputs: which of the original's outputs stay, None for all.
        groups: of a convolution.
        rows: from what it reads, and which positions, to rows; columns in the weight's order.
    """

    node: Node
    source: Node
    weight_name: str
    weight: nn.Parameter
    bias: nn.Parameter | None
    mean: Tensor | None
    outputs: Tensor | None
    groups: int
    rows: Rows

    @property
    def columns(self) -> int:
        """Weights of one output."""
        return self.weight[0].numel()

    @property
    def shifts(self) -> bool:
        """Whether a constant can be added to each output."""
        return self.bias is not None or self.mean is not None

    def axis(self, y: Tensor) -> int:
        """Where the outputs are in an answer."""
        return y.dim() - 1 if self.rows is _linear_rows else 1

    def answers(self, y: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Answers as rows, one for each row of what was read."""
        return (_linear_rows if self.rows is _linear_rows else _positions)(y, chosen)

    def change(self, step: Tensor, shift: Tensor) -> None:
        """Add to the weights, shape (groups, out/groups, columns), and to the outputs, (out,)."""
        self.weight.add_(step.reshape(self.weight.shape).to(self.weight.dtype))
        if self.bias is not None:
            self.bias.add_(shift.to(self.bias.dtype))
        elif self.mean is not None:
            self.mean.sub_(shift.to(self.mean.dtype))


def is_plain(node: Node) -> bool:
    """Whether a node is a linear layer or a convolution in one group, with weights of the graph."""
    kind = _kind(node)
    if kind not in _FITTABLE:
        return False
    given = bind(node)
    return getattr(given["weight"], "op", "") == "get_attr" and given.get("groups", 1) == 1


def rows_of(node: Node) -> Rows:
    """How a linear layer or convolution reads: see `Layer.rows`."""
    return _linear_rows if _kind(node) == "linear" else _windows(bind(node))


def _kind(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).partition("::")[2]


def find_layer(node: Node, coupling: Coupling, keep: Keep) -> Layer | None:
    """What can be fitted: linear layers and convolutions with weights of their own."""
    kind = _kind(node)
    if kind not in _FITTABLE:
        return None
    given = bind(node)
    weight, bias = (_own(given[name], coupling) for name in ("weight", "bias"))
    if not isinstance(weight, nn.Parameter):
        return None
    if given["bias"] is not None and not isinstance(bias, nn.Parameter):
        return None
    value = coupling.values[node]
    dim = value[-1 if kind == "linear" else 1] if isinstance(value, tuple) else None
    outputs = None
    if dim is not None and not isinstance(dim, Fixed) and keep.removed(dim) is not None:
        outputs = torch.from_numpy(keep.mask(dim).nonzero()[0])
    return Layer(
        node,
        given["input"],
        str(given["weight"].target),
        weight,
        bias if isinstance(bias, nn.Parameter) else None,
        None if given["bias"] is not None else _running_mean(node, coupling),
        outputs,
        1 if kind == "linear" else int(given["groups"]),
        rows_of(node),
    )


def _own(node: Any, coupling: Coupling) -> Tensor | None:
    """A parameter or buffer that nothing else reads."""
    if not isinstance(node, Node) or node.op != "get_attr" or len(node.users) != 1:
        return None
    names = next((a for a in coupling.aliases.values() if str(node.target) in a), ())
    alone = sum(
        len(n.users)
        for n in coupling.module.graph.nodes
        if n.op == "get_attr" and str(n.target) in names
    )
    return attribute(coupling.module, str(node.target)) if alone == 1 else None


def _running_mean(node: Node, coupling: Coupling) -> Tensor | None:
    """The running mean of the batch norm that alone reads a layer."""
    if len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    if getattr(getattr(reader.target, "_schema", None), "name", "") != "aten::batch_norm":
        return None
    given = bind(reader)
    return None if given["training"] else _own(given["running_mean"], coupling)


def _linear_rows(x: Tensor, chosen: Tensor | None = None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return rows if chosen is None else rows[chosen.to(x.device)]


def _positions(x: Tensor, chosen: Tensor | None = None) -> Tensor:
    x = x.flatten(2)
    if chosen is None:
        return _linear_rows(x.transpose(1, 2))
    chosen = chosen.to(x.device)
    return x[chosen // x.shape[2], :, chosen % x.shape[2]]


def _windows(given: dict[str, Any]) -> Rows:
    """Rows of a convolution: what each output position sees, (channel, kernel) in weight order."""
    kernel = [int(s) for s in given["weight"].meta["val"].shape[2:]]
    stride, dilation = (_spread(given[n], len(kernel)) for n in ("stride", "dilation"))
    padding = given["padding"]
    if padding == "valid":
        before = after = [0] * len(kernel)
    elif padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before, after = [w // 2 for w in whole], [w - w // 2 for w in whole]
    else:
        before = after = _spread(padding, len(kernel))
    pads = [p for b, a in zip(reversed(before), reversed(after), strict=True) for p in (b, a)]

    def rows(x: Tensor, chosen: Tensor | None = None) -> Tensor:
        x = functional.pad(x, pads)
        k, s, d = kernel, stride, dilation
        if len(k) == 1:
            x, k, s, d = x.unsqueeze(2), [1, *k], [1, *s], [1, *d]
        high, wide = ((x.shape[2 + i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i in (0, 1))
        if chosen is None:
            chosen = torch.arange(len(x) * high * wide)
        # Only what was chosen is copied: all windows are a kernel's size times the feature map.
        chosen = chosen.to(x.device)
        sample, place = chosen // (high * wide), chosen % (high * wide)
        down = (place // wide * s[0])[:, None] + d[0] * torch.arange(k[0], device=x.device)
        right = (place % wide * s[1])[:, None] + d[1] * torch.arange(k[1], device=x.device)
        windows = x[sample[:, None, None], :, down[:, :, None], right[:, None, :]]
        return windows.permute(0, 3, 1, 2).flatten(1)

    return rows


def _spread(value: Any, rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def choose(positions: int, wanted: int, generator: torch.Generator) -> Tensor | None:
    """Which positions to look at; None for all of them."""
    if positions <= wanted:
        return None
    return torch.randperm(positions, generator=generator)[:wanted]
