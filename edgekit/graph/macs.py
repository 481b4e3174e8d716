"""The cost of a network as a value, shared by the graph's and ONNX's counters; loads no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """MACs and parameters for one sample.

    Attributes:
        macs: multiply-accumulates of one forward, batch of 1.
        parameters: elements of the trained tensors; tied ones count once.
        by_layer: layer to its (MACs, parameters).
        uncounted: layers that compute MACs which could not be counted.
    """

    macs: int
    parameters: int
    by_layer: dict[str, tuple[int, int]]
    uncounted: tuple[str, ...] = ()
