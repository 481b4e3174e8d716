"""What each layer's quantization does to the network's outputs, and what reverting it would give.

Two questions, two rankings over the same calibration samples:

- *alone*: the float network with one layer quantized. Such noises add up nearly, so a search over
  mixed precisions can sum them.
- *reverted*: the network quantized whole but for one layer. It says which layer to give back first.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.lower import check
from edgekit.progress import Progress
from edgekit.quantize import dynamic
from edgekit.quantize.graph import Graph
from edgekit.quantize.simulate import Simulation

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

Quantized = Callable[[Sequence[str]], "onnx.ModelProto"]


@dataclass(frozen=True)
class Partial:
    """A network of which any layers can be quantized.

    Attributes:
        layers: names of the layers, in topological order.
        quantized: the network with these layers in int8, for running, not for shipping.
    """

    layers: tuple[str, ...]
    quantized: Quantized


def static(
    reference: "onnx.ModelProto",
    model: "onnx.ModelProto",
    feeds: Iterable[check.Arrays] | None = None,
) -> Partial:
    """Layers with the weights and ranges of a network that was quantized whole.

    Args:
        reference: the float network.
        model: the same one quantized, from which the parameters come.
        feeds: samples on which each layer's bias is corrected; None: it is not.
    """
    simulation = Simulation(reference, model)
    if feeds is not None:
        simulation.correct(feeds)
    return Partial(simulation.layers, simulation.quantized)


def of_dynamic(
    reference: "onnx.ModelProto", scheme: "IntegerScheme", *, per_channel: bool = True
) -> Partial:
    """Layers that ONNX Runtime quantizes at each run.

    Args:
        reference: the float network, prepared, its recurrent weights folded.
        scheme: of the target.
        per_channel: a scale for each output channel of a weight, or one for all.
    """
    names = tuple(n.name for n in dynamic.layers(reference))
    return Partial(
        names,
        lambda only: dynamic.convert(reference, scheme, only=set(only), per_channel=per_channel),
    )


class Noise:
    """Noise that quantization adds to a network's outputs, on a few samples.

    Args:
        reference: the float network.
        feeds: the samples; iterated once for each network that is compared.
        before: called before each network; may raise, to stop what measures many.
    """

    def __init__(
        self,
        reference: "onnx.ModelProto",
        feeds: Iterable[check.Arrays],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._reference, self._feeds, self._before = reference, feeds, before

    @cached_property
    def _outputs(self) -> list[check.Arrays]:
        run = check.onnx_runner(self._reference.SerializeToString())
        return [run(feed) for feed in self._feeds]

    def of(self, model: "onnx.ModelProto") -> float:
        """Noise power by signal power, mean over the floating outputs."""
        self._before()
        run = check.onnx_runner(model.SerializeToString())
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for feed, right in zip(self._feeds, self._outputs, strict=True):
            got = run(feed)
            for name, value in right.items():
                if np.issubdtype(value.dtype, np.floating):
                    r, g = value.astype(np.float64), got[name].astype(np.float64)
                    signal[name] = signal.get(name, 0.0) + float(np.square(r).sum())
                    noise[name] = noise.get(name, 0.0) + float(np.square(r - g).sum())
        ratios = [noise[n] / s if s > 0 else noise[n] for n, s in signal.items()]
        found = float(np.mean(ratios)) if ratios else 0.0
        return found if np.isfinite(found) else float("inf")


def decibels(ratio: float) -> float | None:
    """Signal to noise ratio, decibels, of a noise to signal ratio; None where there is no noise."""
    return None if ratio <= 0 else round(-10 * float(np.log10(ratio)), 2)


def alone(partial: Partial, noise: Noise, progress: Progress) -> dict[str, float]:
    """Noise of the network with one layer quantized, by layer."""
    return each(partial.layers, lambda name: noise.of(partial.quantized([name])), progress)


def reverted(
    partial: Partial, noise: Noise, progress: Progress, within: Sequence[str] | None = None
) -> dict[str, float]:
    """Noise of the network quantized but for one layer, by layer.

    Args:
        partial: the network.
        noise: how it is measured.
        progress: is moved on after each layer.
        within: the layers that are quantized at all; all of them where None.
    """
    whole = partial.layers if within is None else tuple(within)
    return each(
        whole,
        lambda name: noise.of(partial.quantized([n for n in whole if n != name])),
        progress,
    )


def each(
    layers: Sequence[str], measure: Callable[[str], float], progress: Progress
) -> dict[str, float]:
    """Measure one layer after the other."""
    found: dict[str, float] = {}
    with progress.task("measure layers", len(layers)) as task:
        for name in layers:
            found[name] = measure(name)
            task.advance(1, detail=name)
    return found


def worst_first(without: dict[str, float]) -> list[str]:
    """Layers in the order in which to give them back: what leaves the least noise comes first."""
    return sorted(without, key=lambda name: without[name])


def weight_bytes(model: "onnx.ModelProto", layers: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Bytes of each layer's weights in float32 and in int8 with a scale for each channel.

    Args:
        model: the float network.
        layers: names of nodes.
    """
    graph = Graph(model)
    nodes = {n.name: n for n in graph.nodes}
    found = {}
    for name in layers:
        node = nodes[name]
        names = node.input[1:3] if node.op_type == "LSTM" else node.input[1:2]
        weights = [w for w in map(graph.array, names) if w is not None]
        floats = sum(w.size * 4 for w in weights)
        found[name] = floats, sum(w.size + 4 * _channels(w) for w in weights)
    return found


def _channels(weight: NDArray[Any]) -> int:
    return int(weight.shape[0] if weight.ndim != 2 else max(weight.shape[1], 1))
