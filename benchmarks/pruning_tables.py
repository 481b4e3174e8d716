"""Writes the tables of pruning in `README.md` from the results files.

    python benchmarks/pruning_tables.py [--rows FILE ...]

A table stands between `<!-- name -->` and `<!-- end -->`. `--rows` first takes over the rows that
another run of `pruning.py` kept in a file of its own.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Row = dict[str, Any]
NETWORKS = {"resnet8": "ResNet-8 layout", "depthwise": "Depthwise CNN"}
FITTED = {"tool": "edgekit", "recovery": "least-squares"}
WAYS: tuple[tuple[str, Row], ...] = (
    ("edgekit, default", {**FITTED, "importance": "reconstruction", "allocation": "sensitivity"}),
    (
        "edgekit, `reconstruction`, uniform widths, least squares",
        {**FITTED, "importance": "reconstruction", "allocation": "uniform"},
    ),
    ("edgekit, `l2`, uniform, least squares", {**FITTED, "importance": "l2"}),
    ("edgekit, random, uniform, least squares", {**FITTED, "importance": "random"}),
    ("edgekit, `l2`, uniform", {"tool": "edgekit", "importance": "l2", "recovery": "none"}),
    (
        "control: edgekit, random, uniform",
        {"tool": "edgekit", "importance": "random", "recovery": "none"},
    ),
    *(
        (
            f"Torch-Pruning, `{criterion}`, {allocation}",
            {"tool": "Torch-Pruning", "importance": criterion, "allocation": allocation},
        )
        for criterion in ("taylor", "l2", "bn-scale", "hessian", "random")
        for allocation in ("uniform", "global")
    ),
)
CURVES = (
    ("l2", "uniform", "none"),
    ("l2", "uniform", "least-squares"),
    ("reconstruction", "sensitivity", "least-squares"),
    ("reconstruction", "uniform", "least-squares"),
)
POINTS = ((0.25, 0), (0.06, 0), (0.06, 1))


def cell(means: list[Row], **about: object) -> str:
    """Mean and range over the seeds."""
    found = [m for m in means if all(m.get(key) == value for key, value in about.items())]
    if not found:
        return ""
    mean = found[0]
    if mean["seeds"] == 1:
        return f"{mean['accuracy']:.3f} (one seed)"
    few = "" if mean["seeds"] == 3 else f"{mean['seeds']} seeds: "
    return f"{mean['accuracy']:.3f} ({few}{mean['lowest']:.3f} to {mean['highest']:.3f})"


def accuracy(means: list[Row]) -> Iterator[str]:
    """Each network's table."""
    for network, title in NETWORKS.items():
        yield f"{title}; the originals: {cell(means, network=network, tool='original')}.\n"
        yield "| | a quarter of the MACs, no training | 6 %, no training | 6 %, one epoch |"
        yield "|---|---|---|---|"
        for name, about in WAYS:
            cells = [cell(means, network=network, **about, budget=b, epochs=e) for b, e in POINTS]
            if any(cells):
                yield f"| {name} | {' | '.join(cells)} |"
        for epochs, said in ((1, "one epoch"), (4, "four epochs, as long as the original")):
            found = cell(
                means, network=network, tool="from scratch", allocation="sensitivity", epochs=epochs
            )
            if found:
                yield f"| control: the default's widths from scratch, {said} | | | {found} |"
        yield ""


def architectures(rows: list[Row]) -> Iterator[str]:
    """Both tools beside each other."""
    yield "| network | edgekit: seconds, MACs removed, difference | Torch-Pruning |"
    yield "|---|---|---|"
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = {row["tool"]: _said(row) for row in rows if row["network"] == network}
        yield f"| {network} | {mine['edgekit']} | {mine['Torch-Pruning']} |"


def _said(row: Row) -> str:
    if "error" in row:
        return f"fails: `{row['error'].rstrip(': ')}`"
    apart = row["masked_difference"]
    apart = "–" if apart is None else f"{apart:.0e}"
    return f"{row['cpu_seconds']:.1f} s, {100 * row['macs_removed']:.1f} %, {apart}"


def recovery(found: dict[str, Any]) -> Iterator[str]:
    """Each network's curve."""
    for network, measure in found["measures"].items():
        rows = [row for row in found["rows"] if row["network"] == network]
        yield f"{network}: {measure}; the original {found['originals'][network]:g}.\n"
        yield "| MACs kept | `l2`, nothing | `l2`, least squares | default | uniform widths |"
        yield "|---|---|---|---|---|"
        for share in sorted({row["budget"] for row in rows}, reverse=True):
            scores = {
                (row["importance"], row["allocation"], row["recovery"]): f"{row['score']:.3f}"
                for row in rows
                if row["budget"] == share
            }
            yield f"| {share:g} | {' | '.join(scores.get(way, '') for way in CURVES)} |"
        yield ""


def merge(path: Path, others: list[Path]) -> None:
    """Take over rows of other runs that the results do not have."""
    from pruning import means

    found = json.loads(path.read_text())
    keys = ("network", "seed", "tool", "importance", "allocation", "recovery", "budget", "epochs")
    known = {tuple(row.get(key) for key in keys) for row in found["rows"]}
    for other in others:
        run = json.loads(other.read_text())
        found["versions"] |= run["versions"]
        for row in run["rows"]:
            if tuple(row.get(key) for key in keys) not in known:
                known.add(tuple(row.get(key) for key in keys))
                found["rows"].append(row)
    found["means"] = means(found["rows"])
    path.write_text(json.dumps(found).replace('{"network"', '\n{"network"') + "\n")


def main() -> None:
    """Fill every table in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, nargs="*", default=[], help="files of other runs")
    options = parser.parse_args()
    results, page = HERE / "results", HERE / "README.md"
    if options.rows:
        merge(results / "pruning.json", options.rows)
    read = {
        name: json.loads((results / f"{name}.json").read_text())
        for name in ("pruning", "pruning_models", "recovery")
    }
    tables = {
        "pruning": accuracy(read["pruning"]["means"]),
        "pruning_models": architectures(read["pruning_models"]["rows"]),
        "recovery": recovery(read["recovery"]),
    }
    text = page.read_text()
    for name, lines in tables.items():
        block = f"<!-- {name} -->\n{chr(10).join(lines).strip()}\n<!-- end -->"
        text = re.sub(f"<!-- {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.S)
    page.write_text(text)


if __name__ == "__main__":
    main()
