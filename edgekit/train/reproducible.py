"""The same seed gives the same weights, bit for bit, and leaves torch as it was found."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def reproducible(seed: int, threads: int | None) -> Iterator[None]:
    """Seed torch, choose deterministic kernels and set the threads; restore all of it.

    Args:
        seed: of torch's global generator (dropout draws from it).
        threads: of the CPU; None leaves them. Sums depend on how they are divided among threads,
            so results are the same for the same number of them.
    """
    before = torch.get_num_threads()
    chosen = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module whose settings are properties
    fill = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        torch.default_generator.manual_seed(seed)
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True, warn_only=True)
            # It would write NaN into every new tensor: a search for bugs, paid for in time.
            memory.fill_uninitialized_memory = False
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(chosen, warn_only=warn_only)
            memory.fill_uninitialized_memory = fill


def seed_batch(seed: int, epoch: int, batch: int, rank: int, device: torch.device) -> None:
    """Seed torch for one batch of one process: what dropout draws depends on these alone."""
    mixed = seed
    for part in (epoch, batch, rank):
        mixed = (mixed * 1_000_003 + part) % (1 << 63)
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)
