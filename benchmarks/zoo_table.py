"""Writes the zoo's records as `results/zoo.json` and as the tables of `zoo.md`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]
HERE = Path(__file__).parent
LEFT_OUT = ("traceback", "prune_warnings", "capture_warnings")

HEAD = """\
# The pruning zoo

`make zoo-models` takes every network of torchvision and one of each family of timm, with random
weights, through capture, pruning at sparsity 0.5 of every layer, saving and loading, ONNX export
and ONNX Runtime. It writes this page; the records are in [results/zoo.json](results/zoo.json).

- *MACs left*, *weights left*: share after pruning, at the input size shown.
- *frozen*: share of the weights that could not be removed; *by* names the operators. `(output)` is
  the width of the network's answer, `(input)` that of what it reads.
- *proof*: the largest difference between the pruned network and the original with the removed
  channels set to zero, relative to the largest output, in the precision named. The pass holds it
  below 1e-9 in float64 and 1e-4 in float32 (used above 400 MB of weights).
- *ONNX*: the largest difference between ONNX Runtime and the pruned network, relative to the
  largest output; each element is held to 1e-4 of the largest output plus 1e-3 of itself.
- *batch*: whether the pruned program takes any batch size.
- *seconds*: of the processor, one thread: analysis; shrinking, with capturing the smaller graph
  again; proof; everything.
- *commit*: of edgekit, which made the row, as it stands in the history now; the processor is in the
  records.
"""


def read(work: Path) -> list[Record]:
    """All records, in the order of their names."""
    found = [json.loads(path.read_text()) for path in sorted(work.glob("*-*.json"))]
    return [record for record in found if "key" in record]


def write_table(work: Path) -> None:
    """Write both files."""
    records = read(work)
    kept = [{k: v for k, v in r.items() if k not in LEFT_OUT} for r in records]
    text = json.dumps({"summary": summary(records), "networks": kept}, indent=1)
    (HERE / "results" / "zoo.json").write_text(text + "\n")
    (HERE / "zoo.md").write_text(page(records))


def share(record: Record, what: str) -> float:
    """What is left of the MACs or the parameters."""
    return float(record[f"{what}_after"] / record[f"{what}_before"])


def frozen_share(record: Record) -> float:
    """Share of the parameters that could not be removed."""
    return float(record["frozen_parameters"] / record["parameters_before"])


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """What the table says in few numbers, by package and in all."""
    found = {}
    for source in ("torchvision", "timm", ""):
        mine = [r for r in records if r["key"].startswith(source)]
        good = [r for r in mine if r["status"] == "ok"]
        if not good:
            continue
        weights = sum(r["parameters_before"] for r in good)
        found[source or "all"] = {
            "networks": len(mine),
            "exportable": sum(r["status"] != "not exportable" for r in mine),
            "ok": len(good),
            "symbolic_batch": sum(r["batch"] == "symbolic" for r in good),
            "median_macs_removed": round(1 - median(share(r, "macs") for r in good), 4),
            "least_macs_removed": round(1 - max(share(r, "macs") for r in good), 4),
            "median_parameters_removed": round(1 - median(share(r, "parameters") for r in good), 4),
            "frozen_share": round(sum(r["frozen_parameters"] for r in good) / weights, 5),
            "largest_proof_error_float64": max(
                (r["oracle_error"] for r in good if r["oracle_dtype"] == "float64"), default=None
            ),
            "largest_proof_error_float32": max(
                (r["oracle_error"] for r in good if r["oracle_dtype"] == "float32"), default=None
            ),
            "largest_onnx_error": max(r["onnx_max_rel_error"] for r in good),
        }
    return found


def causes(records: Sequence[Record]) -> list[tuple[str, int, float, int]]:
    """Freezing operators: name, elements, share of all elements, networks; the largest first."""
    good = [r for r in records if r["status"] == "ok"]
    weights = sum(r["parameters_before"] for r in good)
    found: dict[str, list[int]] = {}
    for record in good:
        for cause, cost in record["frozen"].items():
            entry = found.setdefault(cause, [0, 0])
            entry[0] += cost["parameters"]
            entry[1] += 1
    rows = [(cause, total, total / weights, count) for cause, (total, count) in found.items()]
    return sorted(rows, key=lambda row: -row[1])


def page(records: Sequence[Record]) -> str:
    """The page."""
    lines = [HEAD, "## In short\n"]
    found = summary(records)
    lines.append(
        table(
            ["", *found],
            [
                [name.replace("_", " "), *(_said(v[name]) for v in found.values())]
                for name in next(iter(found.values()))
            ],
        )
    )
    lines.append("\n## What froze weights\n")
    lines.append(
        table(
            ["operator", "weights", "share of all", "networks"],
            [[f"`{c}`", f"{n:,}", f"{s:.3%}", str(k)] for c, n, s, k in causes(records)],
        )
    )
    for source in ("torchvision", "timm"):
        good = [r for r in records if r["key"].startswith(source) and r["status"] == "ok"]
        lines.append(f"\n## {source}\n")
        lines.append(table(*_rows(good)))
    bad = [r for r in records if r["status"] != "ok"]
    if bad:
        lines.append("\n## What did not go through\n")
        lines.append(
            table(
                ["network", "where", "why"],
                [[r["key"], r["status"], _short(r.get("error", ""))] for r in bad],
            )
        )
    if missing := not_run(records):
        lines.append(f"\n## Not run yet\n\n{', '.join(missing)}")
    return "\n".join(lines) + "\n"


def not_run(records: Sequence[Record]) -> list[str]:
    """Networks of the zoo that have no record."""
    from zoo_models import zoo

    known = {r["key"] for r in records}
    return [entry.key for entry in zoo() if entry.key not in known]


def _short(error: str) -> str:
    return " ".join(error.split()).replace("|", "/")[:240]


def _said(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.1%}" if value >= 1e-3 else f"{value:.2g}"


def _seconds(spent: dict[str, float]) -> str:
    shrinking = spent.get("shrink", 0.0) + spent.get("re-export", 0.0)
    parts = (spent.get("analysis", 0.0), shrinking, spent.get("oracle", 0.0), sum(spent.values()))
    return " / ".join(f"{part:.1f}" for part in parts)


COLUMNS: dict[str, Callable[[Record], str]] = {
    "network": lambda r: r["key"].partition("/")[2],
    "input": lambda r: " + ".join("×".join(str(n) for n in s[1:]) for s in r["inputs"].values()),
    "batch": lambda r: r["batch"],
    "MACs, M": lambda r: f"{r['macs_before'] / 1e6:,.0f}",
    "MACs left": lambda r: f"{share(r, 'macs'):.1%}",
    "weights, M": lambda r: f"{r['parameters_before'] / 1e6:.1f}",
    "weights left": lambda r: f"{share(r, 'parameters'):.1%}",
    "frozen": lambda r: f"{frozen_share(r):.2%}",
    "by": lambda r: ", ".join(c.removeprefix("aten.") for c in list(r["frozen"])[:4]),
    "proof": lambda r: f"{r['oracle_error']:.0e} {r['oracle_dtype']}",
    "ONNX": lambda r: f"{r['onnx_max_rel_error']:.0e}",
    "seconds": lambda r: _seconds(r["seconds"]) if "seconds" in r else "",
    "commit": lambda r: r.get("commit", ""),
}


def _rows(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    return list(COLUMNS), [[column(r) for column in COLUMNS.values()] for r in records]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
