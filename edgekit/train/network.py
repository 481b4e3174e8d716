"""A captured network in training: its mode, what is frozen, and its loss as one module."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.graph import modes
from edgekit.graph.program import Program, module_path, rebuild
from edgekit.graph.taps import add_outputs, drop_outputs
from edgekit.train.batches import Minibatch
from edgekit.train.layout import fast_inputs, fast_layout, plain_layout
from edgekit.train.losses import Loss
from edgekit.train.sharded import put
from edgekit.train.shared_norm import batch_norms, freeze, share

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgekit.train.config import TrainConfig
    from edgekit.train.place import Place

_DROPOUT = ("p", "dropout")


class Trainee:
    """A network that is being trained.

    Args:
        program: the network; it is not changed.
        config: dropout, batch norm and what is frozen.
        place: its device, and how many processes there are.
        taps: nodes whose values are wanted among the outputs, by their names there.

    Raises:
        UsageError: there is nothing to train, or a pattern or setting fits nothing.
    """

    def __init__(
        self, program: Program, config: "TrainConfig", place: "Place", taps: Mapping[str, str]
    ) -> None:
        self._program, self._config, self._taps = program, config, len(taps)
        self.names = [*(spec.name for spec in program.outputs), *taps]
        self.module: GraphModule = program.module()
        self._trainable = [n for n, p in self.module.named_parameters() if p.requires_grad]
        if not self._trainable:
            raise UsageError("The network has no weights to train.", "Leave the step out.")
        if taps:
            add_outputs(self.module, list(taps.values()))
        if config.dropout is not None:
            _set_dropout(self.module, config.dropout)
        # Whether the loss may leave out some weights: one of several outputs, or a frozen layer.
        reached = {str(n.target) for n in self.module.graph.find_nodes(op="get_attr") if n.users}
        self.partly = (
            len(self.names) > 1 or bool(config.freeze) or not reached.issuperset(self._trainable)
        )
        self._norms = batch_norms(self.module)
        self._shares = place.world > 1
        self._held: frozenset[str] = frozenset()
        paths = [module_path(node) for node in self._norms]
        _check_patterns(config.freeze, [*self._trainable, *paths])
        if place.device.type != "cpu":
            modes.to_device(self.module, place.device)
        self._mode(training=True)
        fast_layout(self.module)

    def begin_epoch(self, number: int) -> None:
        """Freeze what this epoch does not train, and thaw the rest.

        Raises:
            UsageError: nothing is left to train.
        """
        held = frozenset(
            pattern
            for pattern, epochs in self._config.freeze.items()
            if epochs is None or number <= epochs
        )
        if held == self._held:
            return
        self._held = held
        parameters = dict(self.module.named_parameters())
        for name in self._trainable:
            parameters[name].requires_grad_(not any(_matches(name, p) for p in held))
        if not any(parameters[name].requires_grad for name in self._trainable):
            raise UsageError(
                f"`freeze` leaves nothing to train in epoch {number}.",
                "Leave a layer out of its patterns.",
            )
        self._mode(training=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this context the network is in eval mode."""
        self._mode(training=False)
        try:
            yield
        finally:
            self._mode(training=True)

    def outputs(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs and taps by name."""
        return dict(zip(self.names, self.module(*fast_inputs(inputs)), strict=True))

    def weights(self) -> dict[str, Tensor]:
        """Parameters and statistics by name, as they are."""
        return dict(self.module.state_dict())

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put other values in their place."""
        for name, value in self.module.state_dict().items():
            put(value, weights[name])

    def finish(self) -> Program:
        """The trained network as a program, in eval mode, on the CPU."""
        parameters = dict(self.module.named_parameters())
        for name in self._trainable:
            parameters[name].requires_grad_(True)
        self._mode(training=False)
        if any(p.device.type != "cpu" for p in self.module.parameters()):
            modes.to_device(self.module, "cpu")
        plain_layout(self.module)
        if self._taps:
            drop_outputs(self.module, self._taps)
        if self._config.dropout is not None:
            _restore_dropout(self.module)
        return rebuild(self.module, like=self._program)

    def _mode(self, *, training: bool) -> None:
        share(self.module, self._norms, on=False)
        modes.set_training(self.module, training=training)
        if not training:
            return
        frozen = [
            node
            for node in self._norms
            if self._config.batch_norm == "frozen"
            or any(_matches(module_path(node), p) for p in self._held)
        ]
        freeze(self.module, frozen)
        if self._shares:
            share(self.module, [node for node in self._norms if node not in frozen], on=True)


class WithLoss(nn.Module):
    """A network and its loss as one module, so that what wraps it sees every weight's use.

    Args:
        trainee: the network.
        loss: from (outputs by name, batch) to a scalar.
        beside: what the loss trains with the network.
    """

    def __init__(self, trainee: Trainee, loss: Loss, beside: nn.Module | None) -> None:
        super().__init__()
        self.network = trainee.module
        self.beside = beside
        self._trainee, self._loss = trainee, loss

    def forward(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and the outputs, without gradients; both as float32."""
        outputs = self._trainee.outputs(batch.inputs)
        device = batch.inputs[0].device.type
        if torch.is_autocast_enabled(device):
            outputs = {n: t.float() if t.is_floating_point() else t for n, t in outputs.items()}
            with torch.autocast(device, enabled=False):
                loss = self._loss(outputs, batch)
        else:
            loss = self._loss(outputs, batch)
        return loss, {name: tensor.detach() for name, tensor in outputs.items()}


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern is a name's, or that of a module around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _check_patterns(patterns: Mapping[str, int | None], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names)[:3]
            raise UsageError(
                f"`freeze`: {pattern!r} matches no layer and no weight.",
                f"Near it are {', '.join(near)}.",
            )


def _set_dropout(module: "GraphModule", probability: float) -> None:
    """Set every dropout's probability, in place; each remembers its own."""
    found = False
    for node in module.graph.nodes:
        if modes.training_argument(node) is None:
            continue
        for index, argument in enumerate(node.target._schema.arguments):
            if argument.name in _DROPOUT and index < len(node.args):
                node.meta["own_dropout"] = (index, node.args[index])
                node.update_arg(index, probability)
                found = True
    if not found:
        raise UsageError(
            f"`dropout: {probability}`: the network has no dropout to set.",
            "Leave `dropout` out, or put dropout layers into the module before it is captured.",
        )


def _restore_dropout(module: "GraphModule") -> None:
    for node in module.graph.nodes:
        if "own_dropout" in node.meta:
            node.update_arg(*node.meta["own_dropout"])
    module.recompile()
