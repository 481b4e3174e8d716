"""Where a network is trained: in this process alone, or in several through accelerate.

A process that is alone and computes in float32 needs torch only. Processes that `torchrun` or
`accelerate launch` started, and mixed precision, go through accelerate: it chooses the device,
wraps the network (DistributedDataParallel), scales what float16 would lose and undoes it.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, distributed, nn

from edgekit.errors import PassError, UnavailableError, UsageError
from edgekit.extras import command
from edgekit.train.layout import plain_layout

if TYPE_CHECKING:
    from edgekit.train.config import TrainConfig

_BROKEN = re.compile(r"gloo|NCCL|closed by peer|reset by peer|Broken pipe|timed? ?out", re.I)


class Place(Protocol):
    """One process of a training.

    Attributes:
        rank: which one, from 0.
        world: how many there are.
        device: where it computes.
        sharded: whether each process holds a part of the weights only.
    """

    rank: int
    world: int
    device: torch.device
    sharded: bool

    def shard(self, network: nn.Module) -> None:
        """Let each process hold its part of the weights, in place, where the settings say so."""
        ...

    def whole(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within this context each process holds all of the weights, to look at."""
        ...

    def gather(self, module: nn.Module) -> None:
        """Give a module of the network all of its weights back, in place, for good."""
        ...

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, partly: bool
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap a network, whose forward gives the loss, and its optimizer.

        Args:
            network: the network.
            optimizer: of its weights.
            partly: whether some weights may have no part in the loss.
        """
        ...

    def alone(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Within this context gradients are not exchanged: more batches will be added to them."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the weights'."""
        ...

    def unscale(self) -> None:
        """Undo the scaling of gradients, before they are looked at."""
        ...

    def totals(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        ...

    def everyones(self, value: str) -> list[str]:
        """The texts of all processes, in order."""
        ...


class Alone:
    """One process, float32, CPU."""

    rank, world = 0, 1
    device = torch.device("cpu")
    sharded = False

    def shard(self, network: nn.Module) -> None:
        """One process holds everything."""

    def whole(self, network: nn.Module) -> AbstractContextManager[None]:
        """It is whole."""
        del network
        return nullcontext()

    def gather(self, module: nn.Module) -> None:
        """It is whole."""

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, partly: bool
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Nothing to wrap."""
        del partly
        return network, optimizer

    def alone(self, network: nn.Module) -> AbstractContextManager[Any]:
        """There is nobody to exchange with."""
        del network
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the weights'."""
        loss.backward()  # type: ignore[no-untyped-call]

    def unscale(self) -> None:
        """Nothing was scaled."""

    def totals(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def everyones(self, value: str) -> list[str]:
        """The value itself."""
        return [value]


class Together:
    """One of several processes, or mixed precision, through accelerate.

    Args:
        accelerator: an `accelerate.Accelerator`.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.device: torch.device = accelerator.device
        self.sharded = False

    def shard(self, network: nn.Module) -> None:
        """Each process holds everything."""

    def whole(self, network: nn.Module) -> AbstractContextManager[None]:
        """It is whole."""
        del network
        return nullcontext()

    def gather(self, module: nn.Module) -> None:
        """It is whole."""

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, partly: bool
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap them as accelerate does; looking for weights without a gradient costs time."""
        self._accelerator.ddp_handler.find_unused_parameters = partly
        wrapped, stepper = self._accelerator.prepare(network, optimizer)
        return wrapped, stepper

    def alone(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Within this context gradients are not exchanged."""
        found: AbstractContextManager[Any] = self._accelerator.no_sync(network)
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the weights', scaled where the precision needs it."""
        self._accelerator.backward(loss)

    def unscale(self) -> None:
        """Undo the scaling of gradients."""
        self._accelerator.unscale_gradients()

    def totals(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def everyones(self, value: str) -> list[str]:
        """The texts of all processes, in order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found


class Sharded(Together):
    """One of several processes that hold a part of the weights each: FSDP at the network's root.

    A captured graph reads all its weights itself, so there is no module inside it whose weights
    could be put together apart from the others': each step gathers all of them, and what is saved
    is the memory of gradients, optimizer state and, between steps, weights.
    """

    def __init__(self, accelerator: Any) -> None:
        super().__init__(accelerator)
        self.sharded = True

    def shard(self, network: nn.Module) -> None:
        """Cut every weight along its first axis."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        scalars = [name for name, value in network.named_parameters() if value.dim() == 0]
        if scalars:
            raise UsageError(
                f"The weight {scalars[0]} is a single number, which cannot be cut among processes.",
                "Use `parallel: replicated`, or make it a vector of one number.",
            )
        plain_layout(network)  # it cuts weights that are contiguous only
        fully_shard(network, mesh=init_device_mesh(self.device.type, (self.world,)))

    @contextmanager
    def whole(self, network: nn.Module) -> Iterator[None]:
        """Within this context each process holds all of the weights."""
        root: Any = network
        root.unshard()
        try:
            yield
        finally:
            root.reshard()

    def gather(self, module: nn.Module) -> None:
        """Put plain weights in the place of the parts."""
        from edgekit.train.sharded import full

        made: dict[int, nn.Parameter] = {}
        for name, value in list(module.named_parameters(remove_duplicate=False)):
            if id(value) not in made:
                made[id(value)] = nn.Parameter(full(value.detach()), value.requires_grad)
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, made[id(value)])

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, partly: bool
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The cut network exchanges by itself."""
        del partly
        return network, optimizer

    @contextmanager
    def alone(self, network: nn.Module) -> Iterator[None]:
        """Within this context gradients are not exchanged."""
        root: Any = network
        root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            root.set_requires_gradient_sync(True)

    def unscale(self) -> None:
        """Nothing was scaled."""


def launched() -> bool:
    """Whether `torchrun` or `accelerate launch` started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


@contextmanager
def place(config: "TrainConfig") -> Iterator[Place]:
    """Take one's place for one training.

    Raises:
        UnavailableError: accelerate is needed and not installed, or the device lacks the precision.
    """
    if not launched() and config.precision == "float32":
        yield Alone()
        return
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState
        from accelerate.utils import DistributedDataParallelKwargs
    except ModuleNotFoundError as e:
        why = "Several processes" if launched() else f"`precision: {config.precision}`"
        raise UnavailableError(
            f"{why} need {e.name}, which is not installed.", command("accelerate")
        ) from e
    if config.precision == "float16" and not torch.cuda.is_available():
        raise UnavailableError(
            "`precision: float16` needs a GPU, and there is none here.",
            "Use `precision: bfloat16` or `float32`.",
        )
    try:
        kind = Sharded if config.parallel == "sharded" and launched() else Together
        yield kind(
            Accelerator(
                cpu=not torch.cuda.is_available(),
                mixed_precision={"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[
                    config.precision
                ],
                kwargs_handlers=[DistributedDataParallelKwargs()],
            )
        )
    finally:
        AcceleratorState._reset_state()  # accelerate keeps the precision for the whole process
        GradientState._reset_state()


def agree(here: Place, done: int) -> None:
    """See that all processes go on from the same point.

    Args:
        here: this process's place.
        done: how far it has found the work to be.

    Raises:
        PassError: others have found something else.
    """
    if here.totals([done])[0] != done * here.world:
        raise PassError(
            "The processes do not find the same checkpoint.",
            "Give an output folder that all machines share.",
        )


@contextmanager
def losing(where: str) -> Iterator[None]:
    """Say what happened where another process of the training is lost.

    Args:
        where: what was being done.

    Raises:
        PassError: another process does not answer any more.
    """
    try:
        yield
    except RuntimeError as e:
        if not _BROKEN.search(str(e)):
            raise
        raise PassError(
            f"Another process of this training was lost in {where}: {str(e).splitlines()[0][:200]}",
            "See what ended it, and start the command again: it goes on from its last checkpoint.",
        ) from e
