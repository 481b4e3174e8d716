"""What a benchmark says: frozen data that goes to JSON and back, with a label on every figure."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from edgekit.errors import UsageError

SCHEMA_VERSION = 2

Label = Literal["measured", "derived", "estimated", "emulated", "unavailable"]
Verdict = Literal["faster", "slower", "inconclusive"]


@dataclass(frozen=True)
class Figure:
    """One number, how sure it is, and where it comes from.

    Attributes:
        value: None where there is none; never 0 for something that was not measured.
        low: lower 95 % limit, None where there is none.
        high: upper 95 % limit; for a tail, the one-sided upper bound.
        unit: such as `ms`; `x` for a ratio.
        label: where the number comes from.
        note: what a reader must know, one sentence.
    """

    value: float | None
    low: float | None
    high: float | None
    unit: str
    label: Label
    note: str = ""

    @classmethod
    def unavailable(cls, unit: str, reason: str) -> "Figure":
        """A figure that is not there, and why."""
        return cls(None, None, None, unit, "unavailable", reason)


@dataclass(frozen=True)
class Energy:
    """Joules of one subject.

    Attributes:
        energy_j: per inference, everything that the meter's primary domains cover.
        net_energy_j: the same without the device's idle power (`derived`).
        domains_j: per inference and domain; a domain that was not measured is absent.
        idle_w: idle power before and after, in watts, None where not measured.
        meter: the meter's name, empty where there is none.
        method: such as `counter, edge-aligned`.
        period_s: the sensor's measured period in seconds, None where unknown.
        windows: number of windows; each is one replicate.
        power_w: joules a second while it ran, at the rate that the note says.
    """

    energy_j: Figure
    net_energy_j: Figure
    domains_j: Mapping[str, float] = field(default_factory=dict)
    idle_w: float | None = None
    meter: str = ""
    method: str = ""
    period_s: float | None = None
    windows: int = 0
    power_w: Figure = field(default_factory=lambda: Figure.unavailable("W", "Not measured."))

    @classmethod
    def unavailable(cls, reason: str) -> "Energy":
        """No energy, and why."""
        figure = Figure.unavailable("J", reason)
        return cls(figure, figure, power_w=Figure.unavailable("W", reason))


@dataclass(frozen=True)
class Deadline:
    """How often an answer came too late.

    Attributes:
        deadline_ms: latest time of an answer after its scheduled time.
        misses: answers that came later.
        n: answers.
        share: misses over answers as a fraction, with its 95 % interval.
    """

    deadline_ms: float
    misses: int
    n: int
    share: Figure


@dataclass(frozen=True)
class Stretch:
    """One stretch of a sustained run.

    Attributes:
        start_s: since the run began.
        p50_ms: median of the stretch.
        n: inferences.
        conditions: frequency, temperatures and throttling at its end, as far as the device tells.
    """

    start_s: float
    p50_ms: float
    n: int
    conditions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SubjectResult:
    """One model on one runtime.

    Attributes:
        name: the subject's name.
        runtime: the runtime's name.
        model: the model's file.
        options: every option that it ran with.
        load_ms: loading the model into the runtime.
        first_ms: the first inference, before any warm-up.
        p50_ms: median with its moving-block interval; no interval under drift.
        p90_ms: sample quantile, with an order-statistic upper bound as `high`.
        p99_ms: likewise.
        mean_ms: mean of all samples.
        min_ms: the fastest sample.
        n: timed inferences.
        ess: effective sample size for the median.
        lag1: autocorrelation of the ranks at lag 1.
        drift: the run moved steadily in one direction.
        drift_change: change over the run as a fraction of the median.
        steady: warm-up ended because the latency was steady, not because time was up.
        warmup_runs: inferences before the first timed one.
        warmup_s: seconds of warm-up.
        throttle_ratio: median of the last fifth over the median of the first.
        outliers: samples beyond 1.5 and 3 interquartile ranges; all are kept.
        rss_bytes: growth of the process's memory by loading and first running the model.
        energy: joules, or why there are none.
        throughput: samples a second over the timed part, with its interval over rounds.
        deadline: misses of the deadline in the modes `paced` and `server`, None in others.
        overloaded: the rate asked for is more than the model can keep up with.
        device_ms: on a GPU, by events: `enqueue`, `h2d`, `compute`, `d2h`; empty elsewhere.
        peak_bytes: memory high-water mark while this subject ran, None where unknown.
        series: of a sustained run, one entry for each stretch of time.
        roofline: share of the device's measured limits that was reached, None where not asked for.
        inputs: dtype and shape of what it was fed, such as `float32[1,3,224,224]`, by input.
        block_medians_ms: median of each timed block, in order: what a later run is held against
            where this one is its stored baseline.
        throttled: the device slowed itself down while this subject ran, by its own flags, its clock
            frequency, or (in a sustained run) by its latency.
        timing: of the modes with a schedule, what shows how far to trust it: `utilisation` (busy
            time over time), `timer_late_us` (p50, p99, max: how late a wait ended), `sleep` and
            `spin_us` (how it waited). Empty in others.
    """

    name: str
    runtime: str
    model: str
    options: Mapping[str, Any]
    load_ms: float
    first_ms: float
    p50_ms: Figure
    p90_ms: Figure
    p99_ms: Figure
    mean_ms: float
    min_ms: float
    n: int
    ess: float
    lag1: float
    drift: bool
    drift_change: float
    steady: bool
    warmup_runs: int
    warmup_s: float
    throttle_ratio: float
    outliers: Mapping[str, int]
    rss_bytes: int | None
    energy: Energy
    throughput: Figure = field(default_factory=lambda: Figure.unavailable("1/s", "Not measured."))
    deadline: Deadline | None = None
    overloaded: bool = False
    device_ms: Mapping[str, Figure] = field(default_factory=dict)
    peak_bytes: int | None = None
    series: tuple[Stretch, ...] = ()
    roofline: Mapping[str, Any] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    block_medians_ms: tuple[float, ...] = ()
    throttled: bool = False
    timing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A subject against the baseline, over rounds in which both ran.

    Attributes:
        subject: its name.
        baseline: the baseline's name.
        speedup: baseline time over subject time; above 1 the subject is faster.
        verdict: `faster` or `slower` where the interval excludes 1 and the difference exceeds
            `threshold`; else `inconclusive`.
        threshold: the larger of 3 % and the A/A floor, as a fraction.
        rounds: interleaved rounds, the number of pairs.
        loads: how often the models were loaded; under 4, the interval does not know how much a
            model's place in memory matters.
    """

    subject: str
    baseline: str
    speedup: Figure
    verdict: Verdict
    threshold: float
    rounds: int
    loads: int


@dataclass(frozen=True)
class Raw:
    """Timed inferences of one subject, in the order of measurement.

    Attributes:
        ns: shape (n,), int64, nanoseconds.
        round: shape (n,), int32, the interleaved round of each; of a sustained run, the stretch.
        stride: 1: every inference; 8: every eighth one, as a long run would not fit into memory.
    """

    ns: npt.NDArray[np.int64]
    round: npt.NDArray[np.int32]
    stride: int = 1


@dataclass(frozen=True)
class BenchResult:
    """A whole benchmark.

    Attributes:
        device: the fingerprint, with its `digest`.
        where: `local`, or the name under which the user added the device.
        conditions: what the machine was doing: load, frequency, temperatures, stolen time, threads.
        protocol: the protocol's fields.
        subjects: in the order given.
        baseline: name of the baseline, None without one.
        comparisons: by subject name; empty without a baseline.
        aa_floor: the A/A floor as a fraction: what the baseline differed from itself.
        peak_rss_bytes: memory high-water mark of the whole process.
        complete: False where the run was stopped; such a result is never averaged with others.
        warnings: what a reader should know, one sentence each.
        raw: by subject, the timed nanoseconds and the round of each; not part of the JSON.
    """

    device: Mapping[str, str]
    conditions: Mapping[str, Any]
    protocol: Mapping[str, Any]
    subjects: tuple[SubjectResult, ...]
    baseline: str | None
    comparisons: Mapping[str, Comparison]
    aa_floor: Figure
    peak_rss_bytes: int | None
    complete: bool = True
    warnings: tuple[str, ...] = ()
    where: str = "local"
    schema_version: int = SCHEMA_VERSION
    raw: Mapping[str, Raw] = field(default_factory=dict, compare=False, repr=False)

    def subject(self, name: str) -> SubjectResult:
        """Return the subject of that name.

        Raises:
            KeyError: there is none.
        """
        for subject in self.subjects:
            if subject.name == name:
                return subject
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds: everything but the raw samples."""
        plain = dataclasses.asdict(dataclasses.replace(self, raw={}))
        del plain["raw"]
        # A round trip through JSON here means that a tuple or a NumPy scalar cannot hide in it.
        return dict(json.loads(json.dumps(plain, allow_nan=False)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BenchResult":
        """Read what `to_dict` wrote.

        Raises:
            UsageError: the data are of another schema version, or broken.
        """
        if data.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(
                f"This benchmark result has the schema version {data.get('schema_version')!r}.",
                f"This edgekit reads version {SCHEMA_VERSION}: measure again.",
            )
        try:
            fields = dict(data)
            fields["subjects"] = tuple(_subject(each) for each in data["subjects"])
            fields["comparisons"] = {
                name: Comparison(**{**each, "speedup": Figure(**each["speedup"])})
                for name, each in data["comparisons"].items()
            }
            fields["aa_floor"] = Figure(**data["aa_floor"])
            fields["warnings"] = tuple(data["warnings"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as e:
            raise UsageError(
                f"This benchmark result is broken ({type(e).__name__}: {e}).", "Measure again."
            ) from e

    def save_raw(self, path: Path) -> None:
        """Write the raw nanoseconds to an `.npz`: `NAME/ns`, `NAME/round`, `NAME/stride`."""
        arrays: dict[str, Any] = {}
        for name, raw in self.raw.items():
            arrays[f"{name}/ns"], arrays[f"{name}/round"] = raw.ns, raw.round
            arrays[f"{name}/stride"] = np.array(raw.stride)
        np.savez_compressed(path, **arrays)


def load_raw(source: Path | BinaryIO) -> dict[str, Raw]:
    """Read what `BenchResult.save_raw` wrote.

    Args:
        source: the `.npz`, or an open binary file that can seek.

    Raises:
        UsageError: it is not such a file.
    """
    try:
        with np.load(source, allow_pickle=False) as saved:
            names = [key.rpartition("/")[0] for key in saved.files if key.endswith("/ns")]
            return {
                name: Raw(
                    saved[f"{name}/ns"].astype(np.int64),
                    saved[f"{name}/round"].astype(np.int32),
                    int(saved[f"{name}/stride"]) if f"{name}/stride" in saved.files else 1,
                )
                for name in names
            }
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
        raise UsageError("These are not the raw samples of a benchmark.", "Measure again.") from e


def _subject(data: Mapping[str, Any]) -> SubjectResult:
    figures = {name: Figure(**data[name]) for name in ("p50_ms", "p90_ms", "p99_ms")}
    energy = {
        **data["energy"],
        "energy_j": Figure(**data["energy"]["energy_j"]),
        "net_energy_j": Figure(**data["energy"]["net_energy_j"]),
        "power_w": Figure(**data["energy"]["power_w"]),
    }
    figures["throughput"] = Figure(**data["throughput"])
    late = data["deadline"]
    return SubjectResult(
        **{
            **data,
            **figures,
            "energy": Energy(**energy),
            "deadline": Deadline(**{**late, "share": Figure(**late["share"])}) if late else None,
            "device_ms": {name: Figure(**each) for name, each in data["device_ms"].items()},
            "series": tuple(Stretch(**each) for each in data["series"]),
            "block_medians_ms": tuple(data["block_medians_ms"]),
        }
    )
