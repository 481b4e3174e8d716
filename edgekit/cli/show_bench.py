"""How a benchmark looks on a terminal: a row a model, the interval under each figure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from edgekit.cli.common import out_console
from edgekit.report.text import figure_parts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgekit.bench import BenchResult, Comparison, Figure, SubjectResult
    from edgekit.pipeline.benchmark import Outcome

_MOST_LAYERS = 25  # rows of a table; the slowest come first
_SERIES = 12
_STYLES = {"faster": "green", "slower": "bold red", "inconclusive": "yellow"}
_MICRO = 0.1  # milliseconds under which a latency is written in microseconds


def table(outcomes: "Sequence[Outcome]") -> None:
    """Print one row a model and device; `details` says why a device failed."""
    results = [o.result for o in outcomes if o.result is not None]
    several = len(outcomes) > 1
    columns = _columns(results)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("model", overflow="fold", min_width=14)
    if several:
        grid.add_column("device", overflow="fold", min_width=6)
    for name in columns:
        grid.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        lead = [Text(outcome.device)] if several else []
        if outcome.result is None:
            grid.add_row(Text("failed", style="bold red"), *lead)
            continue
        for subject in outcome.result.subjects:
            cells = _cells(outcome.result, subject)
            grid.add_row(Text(subject.name), *lead, *(cells[name] for name in columns))
    out_console().print(grid)


def _columns(results: "Sequence[BenchResult]") -> list[str]:
    """The columns that these results fill, in order."""
    subjects = [subject for result in results for subject in result.subjects]
    wanted = {
        "misses": any(s.deadline is not None for s in subjects),
        "throughput": any(_kind(result) not in {"back-to-back", "paced"} for result in results),
        "speedup": any(result.comparisons for result in results),
        "of the limit": any(s.roofline is not None for s in subjects),
    }
    order = ("p50", "p90", "p99", "misses", "throughput", "speedup", "of the limit", "energy")
    return [name for name in (*order, "load/first", "memory") if wanted.get(name, True)]


def _kind(result: "BenchResult") -> str:
    mode = result.protocol.get("mode")
    return str(mode["kind"]) if isinstance(mode, Mapping) else "back-to-back"


def _cells(result: "BenchResult", subject: "SubjectResult") -> "dict[str, RenderableType]":
    from edgekit.cli.show import size

    against = result.comparisons.get(subject.name)
    late = subject.deadline
    speedup = Text("baseline" if subject.name == result.baseline else "", style="dim")
    if against is not None:
        speedup = figure(against.speedup).append(f"\n{against.verdict}", _STYLES[against.verdict])
    peak = subject.peak_bytes or subject.rss_bytes
    return {
        "p50": figure(subject.p50_ms),
        "p90": figure(subject.p90_ms),
        "p99": figure(subject.p99_ms),
        "misses": _misses(subject) if late else Text("–", style="dim"),
        "throughput": figure(subject.throughput),
        "speedup": speedup,
        "of the limit": _reached(subject.roofline),
        "energy": _energy(subject),
        "load/first": Text(f"{_ms(subject.load_ms)}\n{_ms(subject.first_ms)}"),
        "memory": Text(size(peak)),
    }


def figure(found: "Figure") -> Text:
    """A figure, and its interval in a second line."""
    if found.value is None:
        return Text("–", style="dim")
    value, interval = _parts(found.value, found.low, found.high, found.unit)
    text = Text(value)
    if found.label == "emulated":
        text.append(" emulated", style="yellow")
    return text.append(f"\n{interval}", style="dim") if interval else text


def _parts(value: float, low: float | None, high: float | None, unit: str) -> tuple[str, str]:
    if unit == "ms" and value < _MICRO:
        low, high = (None if end is None else end * 1e3 for end in (low, high))
        return figure_parts(value * 1e3, low, high, "µs")
    return figure_parts(value, low, high, "j" if unit == "J" else unit)


def _energy(subject: "SubjectResult") -> Text:
    found = subject.energy.energy_j
    if found.value is None:
        return Text(found.label, style="dim")
    return figure(found).append(f"\n{found.label}", style="dim")


def _reached(roofline: Mapping[str, Any] | None) -> Text:
    """The share of the device's limits, and which of them binds."""
    from edgekit.bench import Figure

    if roofline is None:
        return Text("")
    text = figure(Figure(**roofline["share"]))
    return text.append(f"\n{roofline['bound']}", style="dim") if roofline.get("bound") else text


def _misses(subject: "SubjectResult") -> Text:
    late = subject.deadline
    if late is None:
        return Text("")
    value, interval = figure_parts(late.share.value, late.share.low, late.share.high, "fraction")
    text = Text(value, style="yellow" if late.misses else "")
    text.append(f"\n{interval}", style="dim")
    return text.append("\noverloaded", style="bold red") if subject.overloaded else text


def _ms(value: float) -> str:
    return _parts(value, None, None, "ms")[0]


def details(outcomes: "Sequence[Outcome]") -> None:
    """Print what the table has no room for: how it ran, reasons, warnings, layers, stretches."""
    console = out_console()
    for outcome in outcomes:
        place = f"{outcome.device}: " if len(outcomes) > 1 else ""
        if outcome.result is None:
            reason = outcome.error.message if outcome.error is not None else ""
            failed = f"{outcome.device} failed: {reason.removeprefix(place)}"
            console.print(Text(failed, style="red"), soft_wrap=True)
            continue
        for line in _lines(outcome.result):
            console.print(Text(f"{place}{line}", style="dim"), soft_wrap=True)
        for warning in _warnings(outcome.result):
            console.print(Text(f"{place}{warning}", style="yellow"), soft_wrap=True)
        for subject in outcome.result.subjects:
            if subject.series:
                console.print(_series(subject, place))
        for name, rows in outcome.extras.get("layers", {}).items():
            console.print(_layers(f"{place}{name}", rows))


def _lines(result: "BenchResult") -> Iterator[str]:
    yield _how(result)
    for subject in result.subjects:
        reasons: dict[str, list[str]] = {}
        for name, found in (
            ("p50", subject.p50_ms),
            ("p90", subject.p90_ms),
            ("p99", subject.p99_ms),
        ):
            if found.value is None or found.low is None is found.high:
                reasons.setdefault(found.note, []).append(name)
        for note, names in reasons.items():
            if note:
                yield f"{', '.join(names)} of {subject.name}: {note}"
        if subject.deadline is not None:
            late = subject.deadline
            yield (
                f"{subject.name}: {late.misses} of {late.n} answers came more than"
                f" {_ms(late.deadline_ms)} after their time."
            )
        energy = subject.energy.energy_j
        if energy.note and energy.note != "No meter was asked for.":
            yield f"energy of {subject.name}: {energy.note}"
        if subject.roofline is not None:
            yield f"{subject.name}: {_limits(subject.roofline)}"
        if subject.device_ms:
            parts = ", ".join(f"{n} {_ms(f.value or 0.0)}" for n, f in subject.device_ms.items())
            yield f"{subject.name} on the GPU, by events: {parts}"


def _limits(roofline: Mapping[str, Any]) -> str:
    """What the model has to do, and what the device can do at best."""
    from edgekit.cli.show import size

    share = roofline["share"]
    if "limit_ms" not in roofline or share["value"] is None:
        return f"no share of the limits: {share['note']}"
    macs = " + ".join(f"{count / 1e6:,.3g} M {name}" for name, count in roofline["macs"].items())
    peaks = ", ".join(
        f"{found['value'] / 1e9:.3g} GMAC/s in {name}"
        for name, found in roofline["macs_per_s"].items()
        if found["value"]
    )
    speed = f"{roofline['bytes_per_s']['value'] / 1e9:.3g} GB/s"
    least = _ms(roofline["limit_ms"]["value"])
    return (
        f"{macs or 'no'} MACs and {size(roofline['bytes'])} take at least {least}; the limits here"
        f" are {peaks} and {speed} for {size(roofline['working_set_bytes'])}"
    )


def _how(result: "BenchResult") -> str:
    """One line on how it was measured."""
    mode = result.protocol.get("mode")
    facts: list[str] = []
    if isinstance(mode, Mapping):
        facts.append(str(mode["kind"]))
        if mode.get("rate_hz"):
            facts.append(f"{mode['rate_hz']:g} Hz")
        if mode.get("deadline_ms"):
            facts.append(f"deadline {mode['deadline_ms']:g} ms")
        if mode.get("streams", 1) > 1:
            facts.append(f"{mode['streams']} streams")
    runtimes = dict.fromkeys(f"{s.runtime}{_threads(s)}" for s in result.subjects)
    shapes = dict.fromkeys(
        ", ".join(f"{n}: {d}" for n, d in s.inputs.items()) for s in result.subjects
    )
    device = result.device
    facts += [*runtimes, *(text for text in shapes if text)]
    facts.append(f"{device.get('cpu', 'unknown')}, {device.get('usable_cores', '?')} cores")
    return "; ".join(facts)


def _threads(subject: "SubjectResult") -> str:
    count = subject.options.get("threads")
    return f" with {count} thread{'s' * (count != 1)}" if isinstance(count, int) else ""


def _warnings(result: "BenchResult") -> Iterator[str]:
    if result.protocol.get("quick"):
        yield "A quick run: leave out --quick for figures to quote."
    yield from result.warnings
    known = " ".join(result.warnings).lower()
    if not result.complete and "stop" not in known and "interrupt" not in known:
        yield "Partial: the run was interrupted, and no verdict is drawn from it."


def _series(subject: "SubjectResult", place: str) -> Table:
    """How a sustained run moved: at most a dozen stretches, the first and the last among them."""
    grid = Table(
        "from", "p50", "runs", "hottest", "slowest CPU", box=box.SIMPLE_HEAD, pad_edge=False
    )
    grid.title, grid.title_justify = f"{place}{subject.name}, sustained", "left"
    last = len(subject.series) - 1
    chosen = sorted({round(i * last / max(1, _SERIES - 1)) for i in range(_SERIES)})
    for stretch in (subject.series[i] for i in chosen if i <= last):
        celsius = stretch.conditions.get("thermal_c") or {}
        mhz = stretch.conditions.get("cpu_mhz") or {}
        grid.add_row(
            f"{stretch.start_s:.0f} s",
            _ms(stretch.p50_ms),
            str(stretch.n),
            f"{max(celsius.values()):.0f} °C" if celsius else "–",
            f"{min(mhz.values()):.0f} MHz" if mhz else "–",
        )
    return grid


def _layers(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, title=name, title_justify="left", pad_edge=False)
    grid.add_column("layer", overflow="fold")
    grid.add_column("op")
    limits = any("reached" in row for row in rows)
    for column in ("ms", "share", *(("M MACs", "of the limit") if limits else ())):
        grid.add_column(column, justify="right")
    for row in rows[:_MOST_LAYERS]:
        cells: list[RenderableType] = [
            Text(str(row["layer"])),
            Text(str(row["op"])),
            f"{row['ms']:.4f}",
        ]
        cells.append(f"{row['share']:.1%}")
        if limits:
            reached = row["reached"]["value"]
            bound = f" {row['bound']}" if reached is not None else ""
            cells.append(f"{row['macs'] / 1e6:,.3g}" if row["macs"] else "–")
            cells.append("–" if reached is None else f"{reached:.1%}{bound}")
        grid.add_row(*cells)
    if rest := rows[_MOST_LAYERS:]:
        ms, share = (sum(row[key] for row in rest) for key in ("ms", "share"))
        grid.add_row(f"{len(rest)} more (--json has them)", "", f"{ms:.4f}", f"{share:.1%}")
    return grid


def verdicts(outcomes: "Sequence[Outcome]") -> None:
    """Say in a sentence which model is faster."""
    console = out_console()
    for outcome in outcomes:
        place = f"{outcome.device}: " if len(outcomes) > 1 else ""
        for found in outcome.result.comparisons.values() if outcome.result else ():
            console.print(Text(place).append(sentence(found)), soft_wrap=True)


def sentence(found: "Comparison") -> Text:
    """One comparison in words, the verdict first."""
    text = Text(found.verdict, style=_STYLES[found.verdict])
    value, interval = figure_parts(found.speedup.value, found.speedup.low, found.speedup.high, "x")
    text.append(f": {found.subject} runs at {value} {interval}".rstrip(), style="default")
    text.append(f" the speed of {found.baseline}", style="default")
    text.append(f", over {found.rounds} rounds", style="default")
    if found.verdict == "inconclusive":
        bar = f"; a difference counts from {found.threshold:.1%} on"
        text.append(bar, style="default")
    return text.append(".", style="default")


def against_baseline(found: "Mapping[str, Comparison]") -> None:
    """Compare with a stored baseline, and say that it is less sure."""
    from edgekit.pipeline.baseline import LESS_SURE

    console = out_console()
    for comparison in found.values():
        console.print(sentence(comparison), soft_wrap=True)
    console.print(Text(LESS_SURE, style="dim"), soft_wrap=True)


def hint_meters(names: Sequence[str]) -> None:
    """Say that joules could have been measured."""
    text = f"This machine has an energy meter ({', '.join(names)}): --meter auto measures joules."
    out_console().print(Text(text, style="cyan"), soft_wrap=True)
