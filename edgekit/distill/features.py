"""The losses between layers inside student and teacher, with what is learned to compare them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.distill import feature_losses as losses
from edgekit.distill.pairing import Pair, pair
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.distill.config import FeatureConfig
    from edgekit.graph.program import Program

_LEAST = {"relation-distance": 2, "relation-angle": 3, "contrast": 2}
_SAME_POSITIONS = frozenset({"hint", "matching", "attention"})
_POOL: dict[int, Any] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


class Features(nn.Module):
    """The weighted sum of all losses between layers.

    Its parameters (regressors, projections) are trained with the student and thrown away.

    Args:
        configs: which losses between which layers.
        student: the network that learns.
        teacher: the network that answers.
        seed: draws the first regressors.

    Raises:
        UsageError: a layer is not there, or two layers cannot be compared by a loss.
    """

    def __init__(
        self, configs: Sequence["FeatureConfig"], student: "Program", teacher: "Program", seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        terms = [
            _Term(config, found, generator)
            for config in configs
            for found in pair(student, teacher, config.layers)
        ]
        self._terms = nn.ModuleList(terms)
        self.student_taps = {tap(t.pair[0].node): t.pair[0].node for t in terms}
        self.teacher_taps = {tap(t.pair[1].node): t.pair[1].node for t in terms}
        self.least = max((_LEAST.get(config.loss, 1) for config in configs), default=1)

    @property
    def pairs(self) -> list[dict[str, str]]:
        """What is compared, for a report."""
        return [
            {"loss": t.config.loss, "student": str(t.pair[0]), "teacher": str(t.pair[1])}
            for t in self._each()
        ]

    def forward(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], passed: float = 0.0
    ) -> Tensor:
        """The loss of one batch.

        Args:
            student: outputs and taps by name.
            teacher: the same of the teacher.
            passed: share of the training that is done, 0 to 1.
        """
        parts = [
            term.config.left(passed)
            * term(student[tap(term.pair[0].node)], teacher[tap(term.pair[1].node)])
            for term in self._each()
        ]
        return torch.stack(parts).sum()

    def _each(self) -> list["_Term"]:
        return [term for term in self._terms if isinstance(term, _Term)]


def tap(node: str) -> str:
    """What a node's value is called among the outputs; no output of a network is called so."""
    return f"{node} (inside)"


class _Term(nn.Module):
    """One loss between two layers."""

    def __init__(self, config: "FeatureConfig", found: Pair, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.pair = config, found
        _check(config, found)
        ours, theirs = found
        self.ours: nn.Module = nn.Identity()
        self.theirs: nn.Module = nn.Identity()
        if config.loss in ("hint", "matching"):
            self.ours = losses.Regressor(ours.channels, theirs.channels, generator)
        if config.loss == "contrast":
            self.ours = losses.Projection(ours.channels, config.width, generator)
            self.theirs = losses.Projection(theirs.channels, config.width, generator)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Weighted loss of two features as the networks give them."""
        s = student.movedim(self.pair[0].axis, 1)
        t = teacher.detach().movedim(self.pair[1].axis, 1)
        if self.config.loss in _SAME_POSITIONS:
            s, t = same_positions(s, t)
        return self.config.weight * self._loss(self.ours(s), self.theirs(t))

    def _loss(self, s: Tensor, t: Tensor) -> Tensor:
        kind = self.config.loss
        if kind == "hint":
            return losses.hint(s, t)
        if kind == "matching":
            return losses.feature_matching(s, t)
        if kind == "attention":
            return losses.attention_transfer(s, t)
        if kind == "relation-distance":
            return losses.relation_distance(s, t)
        if kind == "relation-angle":
            return losses.relation_angle(s, t)
        return losses.contrast(s, t, self.config.temperature)


def same_positions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average the finer of two features to the positions of the coarser, axis by axis.

    Args:
        a: shape (n, channels, ...).
        b: shape (n, other channels, ...), as many axes.
    """
    size = [min(sizes) for sizes in zip(a.shape[2:], b.shape[2:], strict=True)]
    return _pooled(a, size), _pooled(b, size)


def _pooled(features: Tensor, size: list[int]) -> Tensor:
    if list(features.shape[2:]) == size:
        return features
    pooled: Tensor = _POOL[len(size)](features, size)
    return pooled


def _check(config: "FeatureConfig", found: Pair) -> None:
    ours, theirs = found
    needs = len(ours.positions), len(theirs.positions)
    if config.loss not in _SAME_POSITIONS:
        return
    if config.loss == "attention" and not min(needs):
        raise UsageError(
            f"`attention` compares positions, and {ours} or {theirs} has none.",
            "Give `layers` with positions, or another loss.",
        )
    if needs[0] != needs[1] or needs[0] > len(_POOL):
        raise UsageError(
            f"`{config.loss}` cannot compare {ours} with {theirs}: their axes differ.",
            "Give `layers` of the same kind.",
        )
