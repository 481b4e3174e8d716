"""What a device can do at best, measured, and the share of it that a model reaches.

The roofline model (Williams, Waterman and Patterson, CACM 52(4), 2009): an inference takes at least
as long as its arithmetic at the processor's peak, and as its bytes at the memory's bandwidth. Both
are measured here through the runtime, with the options and threads of the model: the peak by matrix
products in the model's precision, the bandwidth by a sum of long vectors. The best run counts.

Bandwidth depends on where the data lies. A small model lives in a cache, so bandwidth is measured
for several sizes of working set, from a core's cache to the memory.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench import conditions
from edgekit.bench.measure import Opener, Subject, collection_off, open_runtime
from edgekit.bench.onnx_files import write_product, write_sum
from edgekit.bench.protocol import Clock, SystemClock
from edgekit.bench.result import Figure, Label
from edgekit.errors import EdgekitError, UsageError

# dtypes of the input whose product counts as one in that precision; the fastest is the peak.
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "float32": ("float32",),
    "float16": ("float16",),
    "int8": ("uint8", "int8"),
}
SIZES = (128, 256, 512, 1024)
WORKING_SETS = tuple(3 * 2**power for power in (16, 18, 20, 22, 24, 26))  # 192 KiB to 192 MiB
RUNTIMES = ("onnxruntime", "openvino")
LONGEST_S = 0.5
SPEND_S = 0.25
LEAST_RUNS = 5
ARRAYS, ITEM_BYTES = 3, 4


@dataclass(frozen=True)
class Peaks:
    """The limits of a device in one runtime with one set of options.

    Attributes:
        macs_per_s: by precision, multiply-accumulates a second.
        bytes_per_s: by size of the working set in bytes, bytes a second.
    """

    macs_per_s: Mapping[str, Figure]
    bytes_per_s: Mapping[int, Figure]

    def bandwidth(self, working_set: int) -> Figure:
        """Bytes a second of the smallest measured working set that holds this one."""
        sizes = sorted(self.bytes_per_s)
        if not sizes:
            return Figure.unavailable("B/s", "No bandwidth was measured.")
        return self.bytes_per_s[next((s for s in sizes if s >= working_set), sizes[-1])]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Peaks":
        """Read what `dataclasses.asdict` and JSON make of it.

        Raises:
            UsageError: it is broken.
        """
        try:
            return cls(
                {str(name): Figure(**each) for name, each in data["macs_per_s"].items()},
                {int(size): Figure(**each) for size, each in data["bytes_per_s"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise UsageError(f"The device's limits are broken: {e!r}.", "Measure again.") from e


@dataclass(frozen=True)
class Work:
    """What there is to do in one inference of a model, or in one layer.

    Attributes:
        macs: multiply-accumulates by precision.
        bytes: that must be read and written at least: weights, inputs, outputs.
        working_set: bytes that are in use together: the weights and the largest activations.
        uncounted: nodes whose MACs or bytes are not known, and not in the sums.
    """

    macs: Mapping[str, int]
    bytes: int
    working_set: int
    uncounted: int = 0


def measure_peaks(
    subject: Subject,
    precisions: Sequence[str],
    *,
    affinity: tuple[int, ...] | None = None,
    clock: Clock | None = None,
    opener: Opener = open_runtime,
    spend_s: float = SPEND_S,
) -> Peaks:
    """Measure the limits of this device in a subject's runtime, with its options.

    Args:
        subject: its runtime and options count; its model is not touched.
        precisions: those that the model computes in.
        affinity: CPUs to run on.
        clock: time.
        opener: makes a runtime; a test gives its own.
        spend_s: seconds for each size of product and vector.

    Returns:
        The peaks; where the runtime cannot be measured so, figures that are not available.
    """
    clock = clock or SystemClock()
    if subject.runtime not in RUNTIMES:
        reason = f"Limits are measured in {' and '.join(RUNTIMES)} only."
        return Peaks({name: Figure.unavailable("MAC/s", reason) for name in precisions}, {})
    with (
        tempfile.TemporaryDirectory(prefix="edgekit-limits-") as folder,
        conditions.pinned(affinity),
        collection_off(),
    ):
        meter = _Meter(subject, Path(folder), clock, opener, spend_s)
        return Peaks(
            {name: meter.product(name) for name in dict.fromkeys(precisions)}, meter.bandwidths()
        )


def peaks_of(
    subjects: Sequence[Subject],
    precisions: Mapping[str, Sequence[str]],
    *,
    affinity: tuple[int, ...] | None = None,
    say: Callable[[str], None] | None = None,
    **given: Any,
) -> dict[str, Peaks]:
    """Measure the limits for several subjects; those that run alike share a measurement.

    Args:
        subjects: what was measured.
        precisions: by subject name, those that the model computes in; others are passed over.
        affinity: CPUs to run on.
        say: called with a short text before each measurement.
        given: the other arguments of `measure_peaks`.
    """
    known: dict[str, Peaks] = {}
    found: dict[str, Peaks] = {}
    for subject in subjects:
        wanted = sorted(precisions.get(subject.name, ()))
        if not wanted:
            continue
        options = {name: str(value) for name, value in subject.options.items()}
        key = repr((subject.runtime, sorted(options.items()), wanted))
        if key not in known:
            if say is not None:
                say(f"measuring the limits of {subject.runtime}")
            known[key] = measure_peaks(subject, wanted, affinity=affinity, **given)
        found[subject.name] = known[key]
    return found


@dataclass(frozen=True)
class _Meter:
    """Times small models in one runtime."""

    subject: Subject
    folder: Path
    clock: Clock
    opener: Opener
    spend_s: float

    def product(self, precision: str) -> Figure:
        """Multiply-accumulates a second in a precision: the best size, dtype and run."""
        if precision not in PRECISIONS:
            return Figure.unavailable("MAC/s", f"No product in {precision} is measured here.")
        best, note, problem = 0.0, "", ""
        for dtype in PRECISIONS[precision]:
            seconds = 0.0
            for size in SIZES:
                if seconds * 8 > LONGEST_S:  # the next one would take too long on this device
                    break
                try:
                    seconds = self._product_s(size, dtype)
                except EdgekitError as e:
                    problem = e.message
                    break
                if (rate := size**3 / seconds) > best:
                    best, note = rate, f"matrix product of {size} x {size}, {dtype}; the best run"
        if not best:
            return Figure.unavailable("MAC/s", problem)
        return Figure(best, None, None, "MAC/s", "measured", note)

    def bandwidths(self) -> dict[int, Figure]:
        """Bytes a second for each size of working set that the free memory holds."""
        path = write_sum(self.folder / "sum.onnx")
        free = conditions.free_bytes()
        sizes = [s for s in WORKING_SETS if free is None or 2 * s <= free] or [WORKING_SETS[0]]
        found: dict[int, Figure] = {}
        try:
            call_s = self._sum_s(path, 16)  # what a call costs with nothing to do
            for size in sizes:
                seconds = self._sum_s(path, size // ARRAYS // ITEM_BYTES)
                if seconds > 2 * call_s:  # else the call is most of it
                    note = "sum of two vectors into a third; the best run, less an empty one"
                    rate = size / (seconds - call_s)
                    found[size] = Figure(rate, None, None, "B/s", "measured", note)
                if seconds * 4 > LONGEST_S:
                    break
        except EdgekitError as e:
            found = found or {WORKING_SETS[0]: Figure.unavailable("B/s", e.message)}
        return found

    def _product_s(self, size: int, dtype: str) -> float:
        path = write_product(self.folder / f"{dtype}-{size}.onnx", size, dtype)
        random = np.random.default_rng(1)
        if dtype.startswith("float"):
            x = random.standard_normal((size, size)).astype(dtype)
        else:
            x = random.integers(0, 100, (size, size)).astype(dtype)
        return self._best_s(path, {"x": x})

    def _sum_s(self, path: Path, length: int) -> float:
        vectors = {name: np.ones(length, np.float32) for name in ("a", "b")}
        return self._best_s(path, vectors)

    def _best_s(self, path: Path, feeds: Mapping[str, Any]) -> float:
        """Seconds of the fastest run."""
        subject = Subject(path.name, self.subject.runtime, path, feeds, self.subject.options)
        with self.opener(subject) as runtime:
            return best_s(runtime.bind(feeds), self.clock, self.spend_s)


def best_s(run: Callable[[], object], clock: Clock, spend_s: float) -> float:
    """Seconds of the fastest of several runs; the first one is not counted."""
    run()
    best, end = math.inf, clock.ns() + int(spend_s * 1e9)
    for count in itertools.count(1):
        began = clock.ns()
        run()
        done = clock.ns()
        best = min(best, (done - began) / 1e9)
        if count >= LEAST_RUNS and done >= end:
            break
    return max(best, 1e-9)


@dataclass(frozen=True)
class Limit:
    """The least time that a piece of work can take on a device, and what binds it.

    Attributes:
        limit_ms: the longer of the two below (`derived`).
        compute_ms: its arithmetic at the peak.
        memory_ms: its bytes at the bandwidth.
        bound: `compute` or `memory`; empty where the limit is not known.
    """

    limit_ms: Figure
    compute_ms: float | None
    memory_ms: float | None
    bound: str


def limit(work: Work, peaks: Peaks) -> Limit:
    """The least time of some work.

    Args:
        work: what there is to do.
        peaks: of the device, with every precision of the work.
    """
    compute_s, used = 0.0, []
    for precision, macs in work.macs.items():
        peak = peaks.macs_per_s.get(precision) or Figure.unavailable(
            "MAC/s", f"The peak in {precision} was not measured."
        )
        if macs and not peak.value:
            return Limit(Figure.unavailable("ms", peak.note), None, None, "")
        compute_s += macs / peak.value if peak.value else 0.0
        used.append(peak)
    bandwidth = peaks.bandwidth(work.working_set)
    if not bandwidth.value:
        return Limit(Figure.unavailable("ms", bandwidth.note), None, None, "")
    memory_s = work.bytes / bandwidth.value
    note = f"{work.uncounted} nodes are not counted" if work.uncounted else ""
    value = 1e3 * max(compute_s, memory_s)
    return Limit(
        Figure(value, None, None, "ms", _label(*used, bandwidth), note),
        1e3 * compute_s,
        1e3 * memory_s,
        "compute" if compute_s >= memory_s else "memory",
    )


def share(limit_ms: Figure, taken_ms: Figure) -> Figure:
    """The share of the limit that was reached: the least time over the time it took.

    Args:
        limit_ms: the least time.
        taken_ms: the time, with its interval.
    """
    if limit_ms.value is None or not taken_ms.value:
        return Figure.unavailable("fraction", limit_ms.note or taken_ms.note)
    low, high = taken_ms.high, taken_ms.low  # a longer time is a smaller share
    return Figure(
        limit_ms.value / taken_ms.value,
        limit_ms.value / low if low else None,
        limit_ms.value / high if high else None,
        "fraction",
        _label(limit_ms, taken_ms),
        limit_ms.note,
    )


def _label(*sources: Figure) -> Label:
    """What is computed from emulated figures is emulated."""
    return "emulated" if any(each.label == "emulated" for each in sources) else "derived"
