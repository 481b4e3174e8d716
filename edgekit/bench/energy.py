"""Joules per inference: idle before and after, windows at random phase, median and range."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edgekit.bench.meters import (
    ARGUMENTS,
    AUTO,
    ESTIMATE,
    METERS,
    EnergyReading,
    Load,
    Meter,
    Window,
    make_meter,
)
from edgekit.bench.meters.external import External
from edgekit.bench.protocol import Clock, Protocol
from edgekit.bench.result import Energy, Figure, Label
from edgekit.bench.statistics import Floats
from edgekit.errors import UnavailableError

IDLE_DRIFT = 0.05
ALIGNED_PERIODS = 20


def open_meter(wanted: Sequence[str | Meter]) -> tuple[Meter | None, str]:
    """Take the first meter that can measure here.

    Args:
        wanted: names or meters, best first; `auto` stands for every one that needs no argument.

    Returns:
        The meter and an empty text, or None and why there is none.

    Raises:
        UsageError: a name is unknown, or an argument is wrong.
    """
    if not wanted:
        return None, "No meter was asked for."
    reasons = []
    for each in expanded(wanted):
        meter = make_meter(each) if isinstance(each, str) else each
        state = meter.probe()
        if state.ok:
            return meter, ""
        reasons.append(state.reason)
    if AUTO in wanted:
        return None, "This device has no energy meter; `edgekit meters` says how to get one."
    return None, " ".join(reasons)


def expanded(wanted: Sequence[str | Meter]) -> Iterator[str | Meter]:
    """Put names in the place of `auto`. The estimate is nothing that this device can read."""
    for each in wanted:
        if each == AUTO:
            yield from (name for name in METERS if name not in ARGUMENTS and name not in wanted)
        elif each != ESTIMATE:
            yield each


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
        subjects: name and load of each: one inference as the mode asks for it (`load_of`).
        protocol: `idle_s`, `window_s`, `windows` and `mode` are used.
        clock: time.
        say: progress.

    Returns:
        One for each subject, `unavailable` with the reason where the meter or the machine failed.
    """
    order = np.random.default_rng(protocol.seed)
    # A recording may be read only once it is complete: the windows are read when all are there.
    windows: list[list[Window]] = [[] for _ in subjects]
    period = meter.period_s or 0.0
    seconds = max(protocol.window_s, ALIGNED_PERIODS * period)
    recorder: object = meter
    if isinstance(recorder, External):
        recorder.on_wait = lambda text: say(0.96, text)
    try:
        say(0.95, f"{meter.name}: idle")
        before = _idle(meter, protocol.idle_s)
        for number in range(protocol.windows):
            for place in order.permutation(len(subjects)):
                name, load = subjects[place]
                say(0.95, f"{meter.name}: {name}, window {number + 1} of {protocol.windows}")
                clock.sleep(float(order.uniform(0, period)))
                with meter.window(load) as window:
                    window.keep(seconds)
                windows[place].append(window)
        say(0.96, f"{meter.name}: idle")
        after = _idle(meter, protocol.idle_s)
        say(0.96, f"{meter.name}: reading")
        idles = [_total_j(meter, w.reading) / w.reading.duration_s for w in (before, after)]
        readings = [[(w.reading, w.runs) for w in each] for each in windows]
    except UnavailableError as e:
        return [Energy.unavailable(e.message)] * len(subjects)
    idle = sum(idles) / 2
    moved = abs(idles[1] - idles[0]) / idle if idle > 0 else 0.0
    if moved > IDLE_DRIFT:
        reason = f"Idle power moved by {moved:.0%} during the measurement (limit 5 %)."
        return [Energy.unavailable(reason)] * len(subjects)
    return [_energy(meter, each, idle, protocol) for each in readings]


def _idle(meter: Meter, seconds: float) -> Window:
    with meter.window() as window:
        window.keep(seconds)
    return window


def _total_j(meter: Meter, reading: EnergyReading) -> float:
    return sum(reading.domains_j[domain] for domain in meter.primary)


def _energy(
    meter: Meter, windows: list[tuple[EnergyReading, int]], idle_w: float, protocol: Protocol
) -> Energy:
    totals = np.array([_total_j(meter, reading) / runs for reading, runs in windows])
    powers = np.array([_total_j(meter, reading) / reading.duration_s for reading, _ in windows])
    nets = np.array(
        [
            (_total_j(meter, reading) - idle_w * reading.duration_s) / runs
            for reading, runs in windows
        ]
    )
    rates = [runs / reading.duration_s for reading, runs in windows]
    pace = f"{np.median(rates):.4g} inferences a second"
    if protocol.mode.scheduled:
        pace = f"{pace}, {protocol.mode.rate_hz:g} asked for"
    spread = f"median and range of {len(windows)} windows; {', '.join(meter.primary)}; {pace}"
    if protocol.form == "quick":
        spread = f"quick; {spread}"
    first = windows[0][0]
    return Energy(
        energy_j=_range_figure(totals, "J", meter.label, f"per inference; {spread}"),
        net_energy_j=_range_figure(
            nets, "J", "derived", f"per inference; {spread}; idle {idle_w:.2f} W taken off"
        ),
        power_w=_range_figure(powers, "W", meter.label, spread),
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


def _range_figure(values: Floats, unit: str, label: Label, note: str) -> Figure:
    return Figure(
        float(np.median(values)), float(values.min()), float(values.max()), unit, label, note
    )
