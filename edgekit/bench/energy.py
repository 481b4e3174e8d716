"""Joules per inference: idle before and after, windows at random phase, median and range."""

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.bench.meters import METERS, PLANNED, EnergyReading, Load, Meter, make_meter
from edgekit.bench.protocol import Clock, Protocol
from edgekit.bench.result import Energy, Figure, Label
from edgekit.bench.statistics import Floats
from edgekit.errors import UnavailableError

IDLE_DRIFT = 0.05
ALIGNED_PERIODS = 20


def open_meter(wanted: Sequence[str | Meter]) -> tuple[Meter | None, str]:
    """Take the first meter that can measure here.

    Args:
        wanted: names or meters, best first. A name that edgekit knows of but cannot read yet is
            a reason like any other.

    Returns:
        The meter and an empty text, or None and why there is none.

    Raises:
        UsageError: a name is unknown.
    """
    if not wanted:
        return None, "No meter was asked for."
    reasons = []
    for each in wanted:
        if isinstance(each, str) and each in PLANNED and each not in METERS:
            reasons.append(PLANNED[each])
            continue
        meter = make_meter(each) if isinstance(each, str) else each
        state = meter.probe()
        if state.ok:
            return meter, ""
        reasons.append(state.reason)
    return None, " ".join(reasons)


def measure_energy(
    meter: Meter,
    subjects: Sequence[tuple[str, Load]],
    protocol: Protocol,
    clock: Clock,
    say: Callable[[float, str], None],
) -> list[Energy]:
    """Measure joules per inference of each subject.

    Args:
        meter: entered.
        subjects: name and one inference of each.
        protocol: `idle_s`, `window_s` and `windows` are used.
        clock: time.
        say: progress.

    Returns:
        One for each subject, `unavailable` with the reason where the meter or the machine failed.
    """
    order = np.random.default_rng(protocol.seed)
    readings: list[list[tuple[EnergyReading, int]]] = [[] for _ in subjects]
    period = meter.period_s or 0.0
    seconds = max(protocol.window_s, ALIGNED_PERIODS * period)
    try:
        say(0.95, f"{meter.name}: idle")
        idle_before = _idle_w(meter, protocol.idle_s)
        for number in range(protocol.windows):
            for place in order.permutation(len(subjects)):
                name, load = subjects[place]
                say(0.95, f"{meter.name}: {name}, window {number + 1} of {protocol.windows}")
                clock.sleep(float(order.uniform(0, period)))
                with meter.window(load) as window:
                    window.keep(seconds)
                readings[place].append((window.reading, window.runs))
        say(0.96, f"{meter.name}: idle")
        idle_after = _idle_w(meter, protocol.idle_s)
    except UnavailableError as e:
        return [Energy.unavailable(e.message)] * len(subjects)
    idle = (idle_before + idle_after) / 2
    moved = abs(idle_after - idle_before) / idle if idle > 0 else 0.0
    if moved > IDLE_DRIFT:
        reason = f"Idle power moved by {moved:.0%} during the measurement (limit 5 %)."
        return [Energy.unavailable(reason)] * len(subjects)
    return [_energy(meter, each, idle, protocol) for each in readings]


def _idle_w(meter: Meter, seconds: float) -> float:
    with meter.window() as window:
        window.keep(seconds)
    return _total_j(meter, window.reading) / window.reading.duration_s


def _total_j(meter: Meter, reading: EnergyReading) -> float:
    return sum(reading.domains_j[domain] for domain in meter.primary)


def _energy(
    meter: Meter, windows: list[tuple[EnergyReading, int]], idle_w: float, protocol: Protocol
) -> Energy:
    totals = np.array([_total_j(meter, reading) / runs for reading, runs in windows])
    nets = np.array(
        [
            (_total_j(meter, reading) - idle_w * reading.duration_s) / runs
            for reading, runs in windows
        ]
    )
    note = f"per inference; median and range of {len(windows)} windows; {', '.join(meter.primary)}"
    if protocol.form == "quick":
        note = f"quick; {note}"
    first = windows[0][0]
    return Energy(
        energy_j=_range_figure(totals, meter.label, note),
        net_energy_j=_range_figure(nets, "derived", f"{note}; idle {idle_w:.2f} W taken off"),
        domains_j={
            domain: float(np.median([reading.domains_j[domain] / n for reading, n in windows]))
            for domain in first.domains_j
        },
        idle_w=idle_w,
        meter=meter.name,
        method=first.method,
        period_s=first.period_s,
        windows=len(windows),
    )


def _range_figure(values: Floats, label: Label, note: str) -> Figure:
    return Figure(
        float(np.median(values)), float(values.min()), float(values.max()), "J", label, note
    )
