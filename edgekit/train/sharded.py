"""Tensors that are cut among processes (FSDP), and whole ones: from one to the other and back."""

from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def full(value: T) -> T:
    """A tensor that may be cut, whole; anything else as it is. All processes must ask."""
    return value.full_tensor() if _cut(value) else value  # type: ignore[attr-defined]


@torch.no_grad()
def put(place: Tensor, value: Tensor) -> None:
    """Copy a tensor, whole or cut, to where one lies that is whole or cut.

    Args:
        place: overwritten.
        value: of the same shape; cut only where the place is.
    """
    place.copy_(_like(place, value))


def cut_like(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's saved state, cut as its parameters are.

    Args:
        optimizer: of the parameters.
        state: its `state_dict` with whole tensors.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = {
        index: {
            name: _like(parameters[index], value)
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    return {**state, "state": found}


def _like(place: Tensor, value: Tensor) -> Tensor:
    if not _cut(place) or _cut(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = place
    return distribute_tensor(value, mesh.device_mesh, mesh.placements)


def _cut(value: object) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
