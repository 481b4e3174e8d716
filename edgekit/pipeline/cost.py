"""What compressing costs: joules of each step, from this machine's own energy meters.

A step lasts long against a sensor's period, so its window is not aligned to anything, and reading
the sensor a few times a second is all that it costs. A step that is too short for that has seconds
and no joules.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from edgekit.errors import UnavailableError
from edgekit.report.schema import Figure, Label

if TYPE_CHECKING:
    from edgekit.bench.meters import EnergyReading, Meter, Window
    from edgekit.manifest import Manifest

OFF, AUTO = "off", "auto"
# One of those that see the whole board, or else all of those that see a part of it.
BOARD = ("ina3221", "pmic")
PARTS = ("rapl", "nvml")
LEAST_PERIOD_S = 0.25
COUNTER_PERIODS, SAMPLES = 100, 20  # the least for 1 % without alignment


@dataclass
class StepEnergy:
    """Joules of one step, once its block has ended.

    Attributes:
        joules: None where they were not measured.
        label: `measured`, `estimated` or `unavailable`.
        note: what was measured, such as `rapl: package-0`, or why nothing was.
    """

    joules: float | None = None
    label: Label = "unavailable"
    note: str = ""


class CostMeter:
    """The meters of the machine that runs the pipeline, opened once there is a step to make.

    Args:
        wanted: `auto`, `off`, or a name from `edgekit meters`.
    """

    def __init__(self, wanted: str = AUTO) -> None:
        self._wanted = wanted
        self._open: list[Meter] | None = None
        self._stack = ExitStack()
        self._reason = ""

    def __enter__(self) -> "CostMeter":
        """Nothing is opened yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what was opened."""
        self._stack.close()
        self._open = None

    @contextmanager
    def step(self) -> Iterator[StepEnergy]:
        """Measure what the block uses. A sensor that fails leaves it without joules; no more."""
        found = StepEnergy()
        meters = self._meters()
        found.note = self._reason
        windows: list[Window] = []
        stack = ExitStack()
        try:
            windows = [stack.enter_context(meter.window(align=False)) for meter in meters]
        except UnavailableError as e:
            found.note = e.message
        try:
            yield found
        except BaseException:
            with suppress(UnavailableError):
                stack.close()
            raise
        try:
            stack.close()
            if windows:
                _settle(found, list(zip(meters, (w.reading for w in windows), strict=True)))
        except UnavailableError as e:
            found.note = e.message

    def _meters(self) -> "list[Meter]":
        if self._open is None:
            self._open, self._reason = self._choose()
        return self._open

    def _choose(self) -> "tuple[list[Meter], str]":
        from edgekit.bench.meters import make_meter

        if self._wanted == OFF:
            return [], "The recipe says `meter: off`."
        if self._wanted != AUTO:
            meter = make_meter(self._wanted)
            reason = self._try(meter)
            return ([], reason) if reason else ([meter], "")
        for name in BOARD:
            meter = make_meter(name)
            if not self._try(meter):
                return [meter], ""
        chosen = [meter for meter in map(make_meter, PARTS) if not self._try(meter)]
        return chosen, "" if chosen else "This machine has no energy meter: `edgekit meters`."

    def _try(self, meter: "Meter") -> str:
        """Open a meter; return why it cannot be, empty where it is open."""
        from edgekit.bench.meters.sampled import SampledMeter

        state = meter.probe()
        if not state.ok:
            return state.reason
        try:
            self._stack.enter_context(meter)
        except UnavailableError as e:
            return e.message
        sensor: object = meter
        if isinstance(sensor, SampledMeter) and not sensor.collects:
            sensor.period_s = max(sensor.period_s, LEAST_PERIOD_S)
        return ""


class _Costly(Protocol):
    """A step of a report."""

    @property
    def seconds(self) -> float | None:
        """Wall time."""
        ...

    @property
    def cost_j(self) -> Figure:
        """Joules."""
        ...


def cost_figure(made: "Manifest") -> Figure:
    """Joules that making an artifact took, as its manifest keeps them."""
    if made.energy_j is None:
        return Figure.unavailable("j", made.energy_note)
    return Figure(value=made.energy_j, unit="j", label=made.energy_label, note=made.energy_note)


def total(steps: Iterable[_Costly]) -> tuple[float, Figure]:
    """Seconds and joules of all steps when they were made, cached ones included.

    Returns:
        Seconds, and the sum of the joules that are known; its note says of how many steps.
    """
    made = [step for step in steps if step.seconds is not None]
    seconds = sum(step.seconds or 0.0 for step in made)
    known = [step.cost_j for step in made if step.cost_j.value is not None]
    if not known:
        notes = dict.fromkeys(step.cost_j.note for step in made if step.cost_j.note)
        return seconds, Figure.unavailable("j", next(iter(notes), "No step was made."))
    label: Label = "estimated" if any(each.label == "estimated" for each in known) else "derived"
    sources = "; ".join(dict.fromkeys(each.note for each in known))
    note = f"the sum of {len(known)} of {len(made)} steps; {sources}"
    if len(known) < len(made):
        note = f"{note}; the others have no figure"
    joules = sum(each.value or 0.0 for each in known)
    return seconds, Figure(value=joules, unit="j", label=label, note=note)


def _settle(found: StepEnergy, readings: "Sequence[tuple[Meter, EnergyReading]]") -> None:
    for meter, reading in readings:
        periods = COUNTER_PERIODS if reading.method.startswith("counter") else SAMPLES
        least = periods * (reading.period_s or 0.0)
        if reading.duration_s < least:
            raise UnavailableError(
                f"The step took {reading.duration_s:.2f} s; {meter.name} needs {least:.1f} s.", ""
            )
    found.joules = sum(r.domains_j[domain] for meter, r in readings for domain in meter.primary)
    measured = all(meter.label == "measured" for meter, _ in readings)
    found.label = "measured" if measured else "estimated"
    found.note = "; ".join(f"{m.name}: {', '.join(m.primary)}" for m, _ in readings)
