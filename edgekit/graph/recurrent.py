"""Shape functions for recurrent layers, so that their time dimension stays open during capture.

torch derives the shapes of an LSTM by running it step by step, which fixes the number of steps. The
shapes are known without that: (time, batch, directions * hidden) and the final states.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._subclasses.fake_tensor import FakeTensor

aten = torch.ops.aten
_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


@contextmanager
def open_time() -> Iterator[None]:
    """Within this context, captured recurrent layers keep a symbolic time dimension."""
    kernels: dict[Any, Callable[..., Any]] = {
        aten.lstm.input: _lstm,
        aten.gru.input: _rnn,
        aten.rnn_tanh.input: _rnn,
        aten.rnn_relu.input: _rnn,
    }
    before = {op: dict(op.py_kernels) for op in kernels}
    try:
        for op, kernel in kernels.items():
            for key in _KEYS:
                op.py_kernels[key] = _for_fake(kernel, before[op].get(key, op))
            op._dispatch_cache.clear()
        yield
    finally:
        for op, old in before.items():
            op.py_kernels.clear()
            op.py_kernels.update(old)
            op._dispatch_cache.clear()


def _for_fake(kernel: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Use the shape function for tensors without data only."""

    def run(data: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(data, FakeTensor):
            return kernel(data, *args, **kwargs)
        return original(data, *args, **kwargs)

    return run


def _lstm(
    data: Tensor,
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    del params, has_biases, num_layers, dropout, train, batch_first
    hidden = hx[0].shape[-1] * (2 if bidirectional else 1)
    output = data.new_empty((*data.shape[:-1], hidden))
    return output, hx[0].new_empty(hx[0].shape), hx[1].new_empty(hx[1].shape)


def _rnn(
    data: Tensor,
    hx: Tensor,
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    del params, has_biases, num_layers, dropout, train, batch_first
    hidden = hx.shape[-1] * (2 if bidirectional else 1)
    return data.new_empty((*data.shape[:-1], hidden)), hx.new_empty(hx.shape)
