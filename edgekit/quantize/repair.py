"""What the ladder does to a model that is slower than its parent, or inaccurate.

Cheap things come first. Ranges are compared on a few samples, simulated in the float network, and
only the best is quantized with. Where layers go back, the others keep their ranges and weights
(`edgekit.quantize.reuse`). AdaRound, which takes longest, is left to the layers
that would have to go back otherwise, where giving them back costs speed.
"""

from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from typing import TYPE_CHECKING, Any

from edgekit.quantize import equalize, sensitivity
from edgekit.quantize.attempts import Attempt
from edgekit.quantize.graph import Graph

if TYPE_CHECKING:
    from edgekit.quantize.config import Ranges
    from edgekit.quantize.ladder import Ladder

_RANGES: "tuple[Ranges, ...]" = ("mse", "percentile", "kl")
_WORTH = 0.1  # how much faster an inaccurate start must be than one that holds, to be repaired
_COSTLY = 0.03  # of the whole latency: what a layer loses by int8 before it is worth a try without
_CHEAP = 0.03  # of the speed: what layers in float may cost before AdaRound is worth its time
_ROUNDED = 8  # layers that AdaRound is tried on, at most
_LEFT = 0.25  # of what int8 saves: with less of it left, giving back more is not worth it


def repaired_faster(ladder: "Ladder", best: Attempt, starts: Sequence[Attempt]) -> Attempt | None:
    """Another method, too inaccurate as configured: repaired, where it still beats the best."""
    for start in starts:
        promising = _speed(start) > (1 + _WORTH) * _speed(best)
        if start.passed or start.slower or not start.made_any or not promising:
            continue
        found = repaired(ladder, start)
        if found is not None and _speed(found) > _speed(best):
            return found
    return None


def repaired(ladder: "Ladder", start: Attempt) -> Attempt | None:
    """Repair an attempt that does not hold.

    Args:
        ladder: that made it.
        start: the attempt; some layer of it is in int8.

    Returns:
        The attempt that holds; None where nothing was found.
    """
    best = start
    if start.slower:
        faster = only_what_pays(ladder, start)
        if faster is None or faster.passed:
            return faster
        best = faster
    else:
        best = without_the_slow(ladder, start)
        if best.passed:
            return best
    for rung, changed in _settings(ladder, best):
        found = ladder.attempt(rung, best.kind, best.config.model_copy(update=changed))
        if found.passed:
            return found
        if not found.slower and found.loss < best.loss:
            best = found
    mixed, order = _without_the_worst(ladder, best)
    # What no number of layers in float32 mends, rounding does not mend either.
    if (
        mixed is None
        or best.kind == "dynamic"
        or best.config.adaround
        or _costs_little(mixed, best)
    ):
        return mixed if mixed is not None and mixed.passed else None
    return _rounded(ladder, best, order, mixed)


def _settings(ladder: "Ladder", start: Attempt) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings of static quantization to try, each on top of what was best so far."""
    if start.kind == "dynamic":
        return
    config = start.config
    if not config.bias_correction:
        yield "bias correction", {"bias_correction": True}
    if (ranges := best_ranges(ladder, start)) is not None:
        yield f"ranges {ranges}", {"ranges": ranges}
    ops = {n.op_type for n in ladder.reference.graph.node}
    if "MatMul" in ops and "Softmax" in ops and config.smooth_quant_alpha is None:
        yield "SmoothQuant", {"transformer": True, "smooth_quant_alpha": 0.5}
    if not config.equalize and equalize.pairs(Graph(ladder.reference)):
        yield "equalization", {"equalize": True}


def best_ranges(ladder: "Ladder", start: Attempt) -> "Ranges | None":
    """The ranges with which a network has the least noise, simulated on a few samples.

    One pass over the calibration samples serves all of them.

    Args:
        ladder: that made it.
        start: a static attempt.

    Returns:
        The best; None where none is better, or where weights were scaled by SmoothQuant.
    """
    from edgekit.graph.onnx_model import read_onnx, specs
    from edgekit.lower import check
    from edgekit.quantize import bias, ranges, scales
    from edgekit.quantize.ptq import read_samples

    source, made = ladder.source_of(start), read_onnx(start.path)
    tensors = scales.quantized_tensors(
        Graph(made), {o for n in source.graph.node for o in n.output}
    )
    if not tensors or start.config.smooth_quant_alpha is not None:
        return None
    symmetric = ladder.scheme.activation_symmetric
    inputs, _ = specs(source)
    runner = check.onnx_runner(bias.watch(source, tensors), optimize=False)
    with (
        read_samples(inputs, ladder.calibration(), start.config, ladder.progress, []) as samples,
        ladder.progress.task("compare ranges", None),
    ):
        seen = ranges.observe(runner, samples, symmetric=symmetric)
    feeds = ladder.ranked_on()
    noise = sensitivity.Noise(source, feeds, ladder.deadline.check)
    corrected = feeds if start.config.bias_correction else None

    def with_ranges(name: "Ranges") -> float:
        copy = read_onnx(start.path)
        chosen = seen.limits(start.config.model_copy(update={"ranges": name}))
        scales.set_ranges(Graph(copy), chosen, symmetric=symmetric)
        partial = sensitivity.static(source, copy, corrected)
        return noise.of(partial.quantized(partial.layers))

    best = min((start.config.ranges, *_RANGES), key=with_ranges)
    return None if best == start.config.ranges else best


def without_the_slow(ladder: "Ladder", best: Attempt) -> Attempt:
    """Give back the layers that int8 slows down, if that is faster and no less accurate."""
    whole = best.latency.p50_ms if best.latency else None
    gains = ladder.gains(best) if whole is not None else None
    if whole is None or gains is None:
        return best
    out = [n for n in gains if gains[n] < -_COSTLY * whole]
    if not out or len(out) == len(gains):
        return best
    plural = "layer that int8 slows" if len(out) == 1 else "layers that int8 slows"
    found = ladder.give_back(best, out, f"{len(out)} {plural} down back to float32", slow=True)
    worse = not found.passed and (best.passed or found.loss > best.loss)
    return best if worse or _speed(found) <= _speed(best) else found


def only_what_pays(ladder: "Ladder", start: Attempt) -> Attempt | None:
    """Give back the layers that int8 does not make faster; the first attempt not slower."""
    gains = ladder.gains(start)
    if gains is None:
        return None
    paying = sorted((n for n in gains if gains[n] > 0), key=lambda n: -gains[n])
    tried: set[int] = {len(gains)}
    for share in (1, 2, 4):
        kept = paying[: -(-len(paying) // share)]
        if not kept or len(kept) in tried:
            continue
        tried.add(len(kept))
        out = [n for n in gains if n not in kept]
        rung = f"int8 where it gains most ({len(kept)} of {len(gains)})"
        found = ladder.give_back(start, out, rung, slow=True)
        if not found.slower and found.report is not None:
            return found
    return None


def without_the_worst(ladder: "Ladder", start: Attempt) -> Attempt | None:
    """Give the fewest layers back that make the model accurate, the worst first.

    It ends where less than a quarter of what int8 saves would be left.
    """
    found, _ = _without_the_worst(ladder, start)
    return found if found is not None and found.passed else None


def _without_the_worst(ladder: "Ladder", start: Attempt) -> tuple[Attempt | None, list[str]]:
    """The attempt that is accurate, and the layers in the order in which they were given back."""
    partial = ladder.partial(start)
    noise = sensitivity.Noise(ladder.source_of(start), ladder.ranked_on(), ladder.deadline.check)
    within = [n for n in partial.layers if start.report and n in start.report.layers]
    ranked = sensitivity.reverted(partial, noise, ladder.progress, within)
    ladder.ranked |= ranked
    order = sensitivity.worst_first(ranked)
    failed, count, best, again = 0, 1, start, False
    good: Attempt | None = None
    most = len(order) - 1  # without any layer in int8 it is the parent
    saved = _saved(ladder, start, within)
    while count <= most and _left(saved, order[:count]) >= _LEFT:
        found = _giving_back(ladder, start, order[:count])
        if _accurate(found):
            good = found
            break
        # A regression: what is left is ranked again, once, since it costs as much as many attempts.
        if found.loss >= best.loss and count < most and not again:
            again = True
            kept = [n for n in within if n not in order[:count]]
            rest = sensitivity.reverted(partial, noise, ladder.progress, kept)
            ladder.ranked |= rest
            order = order[:count] + sensitivity.worst_first(rest)
        best = min(best, found, key=lambda a: a.loss)
        failed, count = count, max(count + 1, min(2 * count, most))
    while good is not None and count - failed > 1:
        middle = (count + failed) // 2
        found = _giving_back(ladder, start, order[:middle])
        if _accurate(found):
            good, count = found, middle
        else:
            failed = middle
    return good, order


def _saved(ladder: "Ladder", start: Attempt, layers: Sequence[str]) -> dict[str, float]:
    """What int8 saves in each layer: milliseconds where they were measured, else bytes."""
    timed = next((a for a in ladder.tried if a.kind == start.kind and a.latency), start)
    gains = ladder.gains(timed)
    if gains and any(gains.get(n, 0.0) > 0 for n in layers):
        return {n: max(gains.get(n, 0.0), 0.0) for n in layers}
    sizes = sensitivity.weight_bytes(ladder.source_of(start), layers)
    return {n: float(floats - integers) for n, (floats, integers) in sizes.items()}


def _left(saved: Mapping[str, float], given: Sequence[str]) -> float:
    """The share of what int8 saves that is left when layers go back."""
    total = sum(saved.values())
    return 1 - sum(saved[n] for n in given) / total if total > 0 else 1.0


def _rounded(
    ladder: "Ladder", best: Attempt, order: Sequence[str], mixed: Attempt
) -> Attempt | None:
    """AdaRound on the layers that would have to go back; the faster of the two."""
    given = set(mixed.config.exclude) - set(best.config.exclude)
    names = [n for n in order if escape(n) in given][:_ROUNDED]
    plural = "layer" if len(names) == 1 else "layers"
    changed = {"adaround": tuple(escape(n) for n in names)}
    found = ladder.attempt(
        f"AdaRound of {len(names)} {plural}", best.kind, best.config.model_copy(update=changed)
    )
    if not found.passed and found.loss < best.loss:
        found = without_the_worst(ladder, found) or found
    held = [a for a in (mixed, found) if a.passed]
    return max(held, key=_speed, default=None)


def _costs_little(mixed: Attempt | None, whole: Attempt) -> bool:
    """Whether what layers in float32 cost is too little to look for something better."""
    if mixed is None or not mixed.passed:
        return False
    if not _speed(mixed) or not _speed(whole):  # not measured here
        return True
    return _speed(mixed) >= (1 - _CHEAP) * _speed(whole)


def _giving_back(ladder: "Ladder", start: Attempt, names: Sequence[str]) -> Attempt:
    plural = "layer" if len(names) == 1 else "layers"
    return ladder.give_back(start, names, f"{len(names)} {plural} back to float32")


def _accurate(attempt: Attempt) -> bool:
    return attempt.accuracy is not None and attempt.accuracy.passed


def _speed(attempt: Attempt) -> float:
    return (attempt.latency.speedup if attempt.latency else None) or 0.0
