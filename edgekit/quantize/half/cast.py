"""From a float32 ONNX file to one in half precision, with a guard for what half cannot hold.

Choose (`decide`), round and compare on calibration data (`ranges`), keep what was harmed, and only
then write (`write`). The comparison repeats until every output holds its signal to noise ratio.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.errors import PassError, UsageError
from edgekit.lower.limits import PRODUCTS
from edgekit.lower.opset import opset_of, upgrade
from edgekit.progress import Progress, Silent
from edgekit.quantize.calibration import Samples
from edgekit.quantize.half.config import Half, HalfConfig
from edgekit.quantize.half.decide import Kept, first_choice, halves, keep_islands, kept
from edgekit.quantize.half.graph import HalfGraph, lift_constants
from edgekit.quantize.half.ranges import Seen, emulate, measure_noise, measure_ranges
from edgekit.quantize.half.write import half_constants, write_half

_ROUNDS = 12
_BFLOAT16_OPSET = 22  # the first in which a convolution may be bfloat16
_LIMIT = 2_000_000_000


@dataclass(frozen=True)
class HalfReport:
    """What became half, what did not, and what it cost in accuracy.

    Attributes:
        precision: of the two halves.
        opset: of the file; bfloat16 needs 22, so an older file is written in that.
        nodes: of the float32 network.
        half_nodes: how many compute in half.
        casts: how many casts were written.
        kept: every node that stays float32, with the reason.
        kept_by_reason: how many, by reason.
        samples: calibration samples looked at.
        rounds: how often the rounded network was compared.
        sqnr_db: signal to noise ratio of each output against float32, decibels, emulated; absent
            where nothing differs.
        max_abs_error: largest difference of each output.
        size_bytes_before: of the float32 file.
        size_bytes: of the file.
        evidence: `emulated`: rounding stands where casts do, and arithmetic is float32.
    """

    precision: Half
    opset: int
    nodes: int
    half_nodes: int
    casts: int
    kept: tuple[Kept, ...]
    kept_by_reason: dict[str, int]
    samples: int
    rounds: int
    sqnr_db: dict[str, float]
    max_abs_error: dict[str, float]
    size_bytes_before: int
    size_bytes: int
    evidence: str = "emulated"


def cast_onnx(
    src: Path,
    dst: Path,
    *,
    calibration: Iterable[Mapping[str, NDArray[Any]]],
    config: HalfConfig,
    progress: Progress | None = None,
) -> HalfReport:
    """Cast a float32 ONNX file to half precision.

    Args:
        src: the float32 file.
        dst: the file to write; whole or not at all.
        calibration: input arrays by name, a batch at a time.
        config: what the user chose; its precision is given.
        progress: where to say how far it is.

    Raises:
        UsageError: the file is broken or too large, or the calibration data does not fit.
        PassError: nothing can be half, or an output stays too noisy.
    """
    from edgekit.graph.onnx_model import read_onnx, specs, weight_bytes, write_onnx

    model = lift_constants(read_onnx(src))
    if weight_bytes(model) > _LIMIT:
        raise UsageError(
            f"{src.name} holds over 2 GB, which cannot be looked at in one piece.",
            "Quantize or split the network first.",
        )
    half = config.precision or "float16"
    if half == "bfloat16" and opset_of(model) < _BFLOAT16_OPSET:
        model = upgrade(model, _BFLOAT16_OPSET)
    graph = HalfGraph(model, half)
    shown: Progress = Silent() if progress is None else progress
    with Samples(specs(model)[0]) as samples:
        with shown.task("read calibration data", config.samples) as task:
            samples.read(calibration, config.samples, task)
        with shown.task(f"look for what {graph.half} cannot hold", None):
            found, seen, rounds = _choose(graph, samples, config)
        count = samples.count
    chosen = halves(graph, found)
    proto = write_half(graph, chosen)
    write_onnx(proto, dst)
    noise = {n: seen.noise[n] for n in graph.outputs if n in seen.noise}
    return HalfReport(
        precision=graph.half,
        opset=opset_of(proto),
        nodes=len(graph.nodes),
        half_nodes=len(chosen),
        casts=len(proto.graph.node) - len(graph.nodes),
        kept=tuple(found[place] for place in sorted(found)),
        kept_by_reason=dict(Counter(k.reason for k in found.values())),
        samples=count,
        rounds=rounds,
        sqnr_db={n: round(db, 2) for n, each in noise.items() if (db := each.sqnr_db) is not None},
        max_abs_error={n: each.max_abs for n, each in noise.items()},
        size_bytes_before=src.stat().st_size,
        size_bytes=dst.stat().st_size,
    )


def _choose(
    graph: HalfGraph, samples: Samples, config: HalfConfig
) -> tuple[dict[int, Kept], Seen, int]:
    """The nodes that stay float32, and how much the rest differs."""
    ranges = measure_ranges(graph, samples)
    found = first_choice(graph, ranges, config)
    for rounds in range(1, _ROUNDS + 1):
        trial = dict(found)
        keep_islands(graph, trial)
        chosen = halves(graph, trial)
        if not chosen:
            raise PassError(
                f"No node can compute in {graph.half}: {_reasons(trial)}.",
                "Leave the step out: the network has nothing to gain from it.",
            )
        seen = measure_noise(graph, emulate(graph, chosen, half_constants(graph, chosen)), samples)
        harmed = _harmed(graph, seen, chosen, config.min_sqnr_db)
        if not harmed:
            if not config.float32_products:
                _refuse_products(trial)
            return trial, seen, rounds
        found.update(harmed)
    worst = min(
        (db, name)
        for name in graph.outputs & set(seen.noise)
        if (db := seen.noise[name].sqnr_db) is not None
    )
    raise PassError(
        f"Output {worst[1]!r} has {worst[0]:.1f} dB in {graph.half} after {_ROUNDS} rounds of"
        f" keeping layers in float32; {config.min_sqnr_db:g} dB are asked for.",
        "Lower `min_sqnr_db`, take the other half precision, or stay with float32.",
    )


def _refuse_products(found: Mapping[int, Kept]) -> None:
    """Refuse a network whose products must stay float32 on a target that has none of these."""
    products = [k for k in found.values() if k.operator in PRODUCTS]
    if not products:
        return
    first, more = products[0], f" (and {len(products) - 1} more)" if len(products) > 1 else ""
    raise PassError(
        f"{first.node} must stay float32 ({first.reason}: {first.detail}){more}, and the target"
        " multiplies no float32 matrices.",
        "Lower `headroom` or `min_sqnr_db`, scale the layer's weights, or build for compute"
        " capability 8.0 or later.",
    )


def _harmed(graph: HalfGraph, seen: Seen, chosen: set[int], wanted_db: float) -> dict[int, Kept]:
    """What must be kept next; empty where all is well.

    An overflow anywhere counts. Noise counts where an output has too much of it; then the nodes at
    which it begins are kept (their inputs are still good), and what feeds these.
    """
    nodes, found = graph.nodes, dict[int, Kept]()
    for name, noise in seen.noise.items():
        places = {graph.producer[name], *graph.readers.get(name, [])}
        if noise.overflowed and places & chosen:
            for place in places & chosen:
                found[place] = kept(nodes[place], "overflow", f"{name!r} overflows when rounded")
            return found  # what follows is spoilt by it
    db = {n: v for n, each in seen.noise.items() if (v := each.sqnr_db) is not None}
    if all(db.get(name, wanted_db) >= wanted_db for name in graph.outputs):
        return {}
    for place, node in enumerate(nodes):
        inputs = [db.get(n, float("inf")) for n in node.input]
        outputs = [db.get(n, float("inf")) for n in node.output]
        if min(outputs, default=0) >= wanted_db or min(inputs, default=0) < wanted_db:
            continue
        feeding = {p for n in node.input if (p := graph.producer.get(n)) is not None}
        for each in ({place} | feeding) & chosen:
            detail = f"the noise begins at {node.name!r}: {min(outputs):.1f} dB"
            found[each] = kept(nodes[each], "precision", detail)
    if not found:  # nothing left to keep where it begins: keep what the noisy outputs end with
        noisy = {n for n, value in db.items() if value < wanted_db}
        for place in sorted(chosen, reverse=True):
            if noisy & {*nodes[place].input, *nodes[place].output}:
                return {place: kept(nodes[place], "precision", "an output stays too noisy")}
    return found


def _reasons(found: Mapping[int, Kept]) -> str:
    counts = Counter(k.reason for k in found.values())
    return ", ".join(f"{n} × {reason}" for reason, n in counts.most_common())
