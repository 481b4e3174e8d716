"""Which channels the layers behind can do without, once they are fitted anew.

A channel that repeats others costs nothing: the layers that read it take what it said from those.
So channels go one after the other, each time the one whose loss, made up for by least squares over
the channels that are left, costs least (Optimal Brain Surgeon, Hassibi and Stork, 1993, for whole
blocks of columns as in ZipLM, Kurtic et al., 2023, https://arxiv.org/abs/2302.04089). With
H = XᵀX over what a layer reads and S the columns of a channel, the answers lose

    tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ),

and W and H⁻¹ are those of the rest from then on. A layer's loss counts as a share of the variance
of its answers; the losses of all layers that read a channel add up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgekit.graph.program import Program
from edgekit.prune.atoms import Fixed
from edgekit.prune.coupling import attribute, bind
from edgekit.prune.families import Families
from edgekit.prune.fittable import choose, is_plain, rows_of

RIDGE = 1e-3
ROWS_PER_COLUMN, FEWEST_ROWS = 8, 4096
WIDEST = 4608  # columns of a matrix that is still inverted: a 3 x 3 convolution of 512 channels
_STEPS = 128  # most rounds of elimination; wider layers lose several channels in each


def input_grams(
    program: Program, batches: Sequence[Sequence[Tensor]], *, seed: int = 0
) -> dict[str, Tensor]:
    """Covariance of what each layer reads, over sampled positions.

    Args:
        program: the network.
        batches: inputs in the network's order.
        seed: which positions of large feature maps are looked at.

    Returns:
        node name of a linear layer or plain convolution to shape (columns, columns), float32.
    """
    watch = _Watch(program, len(batches), seed)
    with torch.no_grad():
        for inputs in batches:
            watch.run(*inputs)
    return {name: total.covariance() for name, total in watch.totals.items()}


class _Total:
    """Sums over rows, float64."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.sum = torch.zeros(columns, dtype=torch.float64)
        self.products = torch.zeros(columns, columns, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        rows = rows.to("cpu").double()
        self.count += len(rows)
        self.sum += rows.sum(0)
        self.products += rows.T @ rows

    def covariance(self) -> Tensor:
        mean = self.sum / self.count
        return (self.products / self.count - torch.outer(mean, mean)).float()


class _Watch(Interpreter):
    def __init__(self, program: Program, batches: int, seed: int) -> None:
        super().__init__(program.module())
        self.batches = batches
        self.generator = torch.Generator().manual_seed(seed)
        self.totals: dict[str, _Total] = {}

    def run_node(self, n: Node) -> object:
        result: object = super().run_node(n)
        if is_plain(n) and isinstance(result, Tensor):
            given = bind(n)
            weight, source = self.env[given["weight"]], self.env[given["input"]]
            columns = weight[0].numel()
            if columns <= WIDEST:
                wanted = math.ceil(max(ROWS_PER_COLUMN * columns, FEWEST_ROWS) / self.batches)
                chosen = choose(result.numel() // len(weight), wanted, self.generator)
                rows = rows_of(n)(source, chosen)
                self.totals.setdefault(n.name, _Total(columns)).add(rows)
        return result


@dataclass
class _Reader:
    """A layer that reads a family's channels; what is gone is set to zero.

    Attributes:
        inverse: of its (damped) covariance, shape (columns, columns), float64.
        weight: shape (out, columns), float64, over the root of the answers' variance.
        columns: of each group, shape (groups, columns of one).
    """

    inverse: Tensor
    weight: Tensor
    columns: Tensor

    def costs(self) -> Tensor:
        """What the loss of each group would cost, shape (groups,)."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        parts = self.weight.T[self.columns]
        # Groups that are gone have empty blocks.
        gone = blocks.diagonal(dim1=1, dim2=2).amax(1) <= 0
        blocks[gone] = torch.eye(blocks.shape[1], dtype=blocks.dtype)
        found: Tensor = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
        return found

    def remove(self, groups: Tensor) -> None:
        """Take groups out, and make up for them with the rest."""
        gone = self.columns[groups].flatten()
        across = self.inverse[gone]
        share = torch.linalg.solve(across[:, gone], across)
        self.weight -= self.weight[:, gone] @ share
        self.inverse -= across.T @ share
        self.weight[:, gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0


def elimination_scores(
    families: Families, grams: Mapping[str, Tensor]
) -> list[npt.NDArray[np.float64] | None]:
    """Score every group by what its removal cost, all that scored less being gone.

    Args:
        families: of the graph.
        grams: what `input_grams` says.

    Returns:
        for each family the scores of its groups, shape (n,): the share of the variance of what
        the readers say that is lost with the group, times n, so that losing all of one reader's
        groups is a mean of 1. None for a family that no such layer reads.
    """
    return [_family_scores(families, number, grams) for number in range(len(families.families))]


def _family_scores(
    families: Families, number: int, grams: Mapping[str, Tensor]
) -> npt.NDArray[np.float64] | None:
    readers = _readers(families, number, grams)
    if not readers:
        return None
    size = families.families[number].groups.size
    scores, left = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.bool)
    chunk, level = math.ceil(size / _STEPS), 0.0
    while left.any():
        total = sum((reader.costs() for reader in readers), torch.zeros_like(scores))
        total[~left] = math.inf
        first = torch.argsort(total, stable=True)[: min(chunk, int(left.sum()))]
        for reader in readers:
            reader.remove(first)
        # Never less than what went before: the order of the scores is the order of leaving.
        for index in first.tolist():
            level = max(level, float(total[index]) * size) + 1e-12
            scores[index] = level
        left[first] = False
    return scores.numpy()


def _readers(families: Families, number: int, grams: Mapping[str, Tensor]) -> list[_Reader]:
    coupling, groups = families.coupling, families.families[number].groups
    found = []
    for op, _ in coupling.ops:
        gram = grams.get(op.node.name)
        if gram is None:
            continue
        dim = op.dims("weight")[1]
        if isinstance(dim, Fixed):
            continue
        roots = coupling.solution.roots[dim]
        order = np.argsort(roots, kind="stable")
        first = np.searchsorted(roots[order], groups)
        count = np.searchsorted(roots[order], groups, side="right") - first
        if count.min() != count.max() or not count.max():
            continue
        inputs = torch.from_numpy(order[first[:, None] + np.arange(count[0])])
        weight = attribute(coupling.module, str(op.arguments["weight"].target)).detach()
        kernel = weight[0, 0].numel()
        columns = (inputs[:, :, None] * kernel + torch.arange(kernel)).flatten(1)
        found.append(_reader(weight.to("cpu").double().flatten(1), gram.double(), columns))
    return found


def _reader(weight: Tensor, gram: Tensor, columns: Tensor) -> _Reader:
    variance = float(((weight @ gram) * weight).sum())
    damped = gram + torch.eye(len(gram), dtype=gram.dtype) * (
        RIDGE * float(gram.diagonal().mean()) + 1e-12
    )
    scaled = weight / math.sqrt(variance) if variance > 0 else torch.zeros_like(weight)
    return _Reader(torch.linalg.inv(damped), scaled, columns)
