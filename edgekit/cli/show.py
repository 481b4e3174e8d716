"""How results look on a terminal. Nothing here decides anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from edgekit.cli.common import out_console

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from edgekit.manifest import Manifest
    from edgekit.report.schema import Figure, RunReport, StepReport
    from edgekit.target import Target


def _table(*columns: str, words: int = 1, title: str | None = None) -> Table:
    """A table whose first columns are words (left), the others figures (right)."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < words else "right", overflow="fold")
    return table


def size(count: float | None) -> str:
    """Bytes, for a person."""
    if count is None:
        return "–"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def count(number: int | None) -> str:
    """A count, for a person."""
    if number is None:
        return "–"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return str(number)


def report(run: "RunReport", out: Path) -> None:
    """The before/after table of each branch, its gates, and where the report lies."""
    from edgekit.report.view import cost_text

    console = out_console()
    for branch in run.branches:
        original = branch.original or run.original
        table = _table(
            f"{branch.name} ({branch.target})",
            run.metric or "metric",
            "drop",
            "p50 latency",
            "speedup",
            "size",
            "MACs",
            "energy",
        )
        for step in (original, *(branch.shared or run.shared), *branch.steps):
            _add_step(table, step)
        console.print(table)
        _say_why_no_latency(console, branch.steps or branch.shared)
        if branch.reason:
            console.print(Text(f"{branch.status}: {branch.reason}", style="yellow"), soft_wrap=True)
        for gate in branch.gates:
            mark = Text("PASS ", style="green") if gate.passed else Text("FAIL ", style="bold red")
            if branch.status == "skipped":
                mark = Text("SKIP ", style="yellow")
            console.print(mark + Text(gate.message, style="default"), soft_wrap=True)
        console.print()
    console.print(
        f"Making it took {cost_text(run)}.", markup=False, highlight=False, soft_wrap=True
    )
    kind = "report.html" if (out / "report.html").exists() else "report.md"
    console.print(f"{run.verdict}. The report: {out / kind}", markup=False, soft_wrap=True)


def _say_why_no_latency(console: "Console", steps: "Sequence[StepReport]") -> None:
    notes = [s.latency_p50_ms.note for s in steps if s.status in {"done", "cached"}]
    if notes and all(notes) and steps[-1].latency_p50_ms.label == "unavailable":
        console.print(Text(f"no latency: {notes[-1]}", style="dim"), soft_wrap=True)


def _add_step(table: Table, step: "StepReport") -> None:
    if step.status in {"skipped", "failed"}:
        table.add_row(step.name, Text(step.status, style="yellow"))
        return
    table.add_row(
        step.name,
        _figure(step.metric),
        _figure(step.metric_drop.in_points(), signed=True),
        _figure(step.latency_p50_ms),
        _figure(step.speedup),
        size(step.size_bytes),
        count(step.macs),
        _figure(step.energy_j),
    )


def _figure(figure: "Figure", *, signed: bool = False) -> Text:
    """A figure, and its interval in a second line."""
    if figure.label == "unavailable":
        return Text("–", style="dim")
    value, _, interval = figure.format(signed=signed).partition(" [")
    text = Text(value)
    return text.append(f"\n[{interval}", style="dim") if interval else text


def plan(steps: "Sequence[dict[str, Any]]", *, key: str = "config") -> None:
    """What a recipe would do.

    Args:
        steps: from `edgekit.pipeline.explain`.
        key: which parameters to show: `config`, all that are decided, or `given`, those that the
            recipe sets.
    """
    table = _table("step", "branch", "folder", "there", "parameters", words=5)
    for step in steps:
        fields = {k: v for k, v in step[key].items() if k not in {"kind", "name"}}
        table.add_row(
            step["step"],
            step["branch"] or "shared",
            step["folder"],
            "yes" if step["there"] else "",
            Text(", ".join(f"{k}: {_value(v)}" for k, v in fields.items()), overflow="fold"),
        )
    console = out_console()
    console.print(table)
    for step in steps:
        for warning in step.get("warnings", ()):
            console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _value(value: object) -> str:
    """A parameter as a recipe would write it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def manifest(found: "Manifest") -> None:
    """One new artifact."""
    console = out_console()
    artifact = found.artifact
    console.print(f"{artifact.path}  {size(artifact.size_bytes)}", markup=False, soft_wrap=True)
    for kind, specs in (("in ", artifact.inputs), ("out", artifact.outputs)):
        for spec in specs:
            console.print(f"  {kind} {spec}", markup=False, highlight=False)
    if "half_nodes" in found.notes:
        console.print(f"  {_half(found.notes)}", markup=False, highlight=False)
    for line in _learned(found.notes):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    for warning in found.warnings:
        console.print(Text(f"  warning: {warning}", style="yellow"))
    console.print(f"  hash {artifact.content_hash[:16]}", markup=False, highlight=False)


def _half(notes: "Mapping[str, Any]") -> str:
    """How much of a network is half, and why the rest is not."""
    kept = ", ".join(f"{n} {reason}" for reason, n in notes["kept_by_reason"].items())
    rest = f"; float32: {kept} (in the manifest)" if kept else ""
    return f"{notes['half_nodes']} of {notes['nodes']} nodes in {notes['precision']}{rest}"


def _learned(notes: dict[str, Any]) -> "Iterator[str]":
    """How a step that trained learned, in a line or two."""
    from edgekit.report.learning import learning

    found = learning(notes)
    if found is None:
        return
    once = found.epochs == 1
    curves = [f"{c.name} {c.last if once else f'{c.first} to {c.last}'}" for c in found.curves]
    yield f"trained for {found.epochs} epoch{'s'[: not once]}: {', '.join(curves)}"
    if found.said:
        yield found.said


def inspection(found: dict[str, Any]) -> None:
    """What a model is."""
    console = out_console()
    for key in ("path", "format", "made_by"):
        console.print(f"{key:10} {found[key]}", markup=False, highlight=False, soft_wrap=True)
    for kind in ("inputs", "outputs"):
        for spec in found[kind]:
            shape = ", ".join(map(str, spec["shape"]))
            console.print(
                f"{kind:10} {spec['name']}: {spec['dtype']}[{shape}]", markup=False, highlight=False
            )
    console.print(f"{'size':10} {size(found['size_bytes'])}")
    console.print(Text(f"{'MACs':10} {_macs(found)}"), soft_wrap=True)
    console.print(f"{'weights':10} {count(found['parameters'])}")
    if "activation_bytes" in found:
        console.print(f"{'memory':10} {size(found['activation_bytes'])} of activations at once")
    if found.get("operators"):
        calls = ", ".join(f"{n} {name}" for name, n in found["operators"].items())
        console.print(Text(f"{'operators':10} {calls}"), soft_wrap=True)
    if found["uncounted"]:
        names = ", ".join(found["uncounted"])
        console.print(Text(f"MACs of these layers are not counted: {names}", style="yellow"))
    if found["layers"]:
        table = _table("layer", "MACs", "weights")
        for name, (macs, parameters) in found["layers"].items():
            table.add_row(Text(name), count(macs), count(parameters))
        console.print(table)
    if found.get("groups"):
        table = _table("coupled layers", "channels")
        for group in found["groups"]:
            table.add_row(Text("\n".join(group["layers"]) or "(no layer)"), str(group["channels"]))
        console.print(table)
    for cause, frozen in found.get("frozen", {}).items():
        layers = ", ".join(frozen["layers"])
        line = f"{cause} keeps {count(frozen['parameters'])} weights whole: {layers}"
        console.print(Text(line, style="dim"))


def _macs(found: dict[str, Any]) -> str:
    """The MACs, and what they are counted at."""
    if found["macs"] is None:
        return "unavailable"
    least = "at least " if found["uncounted"] else ""
    sizes = ", ".join(f"{name} = {n}" for name, n in found["sizes"].items())
    return f"{least}{count(found['macs'])} for one sample" + (f" at {sizes}" if sizes else "")


def parity(found: dict[str, dict[str, Any]], on: str) -> None:
    """How far two models are apart, and on what."""
    table = _table("output", "max abs", "max rel", "SQNR dB", "cosine", "agreement")
    for name, p in found.items():
        values = (p["max_abs"], p["max_rel"], p["sqnr_db"], p["cosine"], p["agreement"])
        table.add_row(Text(name), *("–" if v is None else f"{v:.6g}" for v in values))
    out_console().print(table)
    out_console().print(Text(f"Compared on {on}."), soft_wrap=True)


def evaluation(found: Any) -> None:
    """A metric with its interval."""
    console = out_console()
    console.print(
        f"{found.metric} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}] on {found.n} of"
        f" {found.of} samples, the {found.split} split"
    )
    if found.per_class:
        table = _table("class", found.metric)
        for name, value in found.per_class.items():
            table.add_row(Text(str(name)), f"{value:.4f}")
        console.print(table)


def targets(found: "Sequence[Target]") -> None:
    """The device classes."""
    columns = ("target", "device", "runtime", "precisions", "int8 scheme", "channels ×")
    table = _table(*columns, words=5)
    for t in found:
        table.add_row(
            t.name,
            Text(t.title),
            t.runtime,
            ", ".join(t.precisions),
            t.int8.name if t.int8 else "–",
            str(t.channel_multiple),
        )
    out_console().print(table)


def doctor(found: dict[str, Any]) -> None:
    """What this machine has."""
    console = out_console()
    for key, value in found["device"].items():
        console.print(f"{key:18} {value}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{'gpus':18} {', '.join(found['gpus']) or 'none'}", markup=False, highlight=False
    )
    for title, key in (
        ("Libraries", "libraries"),
        ("Engine builders", "builders"),
        ("Runtimes", "runtimes"),
        ("Energy meters", "meters"),
    ):
        table = _table(title, "here", "what to do", words=3)
        for name, entry in found[key].items():
            here = entry.get("version") or ("yes" if entry.get("ok") else "no")
            table.add_row(name, Text(here), Text(entry.get("fix") or entry.get("reason") or ""))
        console.print(table)
