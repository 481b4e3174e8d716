"""The small networks and data sets of the trainer's tests serve here too."""

from tests.train.conftest import _torch_state, dataset, mlp, program, two_moons

__all__ = ["_torch_state", "dataset", "mlp", "program", "two_moons"]
