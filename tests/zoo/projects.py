"""A zoo project on disk: written, trained for a moment as its owner did, and run."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EDGEKIT = Path(sys.executable).with_name("edgekit")
PRUNE = "{kind: prune, macs: 0.5, multiple: 8}"
DISTIL = "{kind: distill, epochs: 2, learning_rate: 2.0e-3}"


@dataclass(frozen=True)
class Project:
    """What a user has, and what they ask for.

    Attributes:
        model: text of model.py.
        data: text of data.py.
        task: the recipe's `task:`.
        loss: cross-entropy (`classes`), squared error with the first input (`input`), none but
            batch statistics (`statistics`), or None for a network as its factory made it.
        epochs: how long its owner trained it.
        passes: the shared chain.
        split: the recipe's `split:`.
        section: the recipe's `data:`, where it is not data.py.
        factory: the function of model.py.
        inputs: the recipe's `model: inputs:`.
        gates: of both branches.
        bench: of the x86 branch.
        quantize: further keys of `quantize`.
        shapes: the engine's `shapes:`.
        files: further files of the project.
    """

    model: str
    data: str = ""
    task: str = "{kind: classification}"
    loss: str | None = "classes"
    epochs: int = 3
    passes: tuple[str, ...] = (PRUNE, DISTIL)
    split: str = "{calibration: 64, evaluation: 0.3}"
    section: str = ""
    factory: str = "build"
    inputs: str = ""
    gates: str = "{accuracy_drop: {budget: 0.03, on: value}}"
    bench: str = "off"
    quantize: str = ""
    shapes: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def recipe(self) -> str:
        """The recipe's text."""
        passes = "".join(f"  - {p}\n" for p in self.passes)
        weights = ", weights: weights.safetensors" if self.loss else ""
        inputs = f", inputs: {self.inputs}" if self.inputs else ""
        section = self.section or f'{{python: "data.py:load", split: {self.split}}}'
        shapes = f", shapes: {self.shapes}" if self.shapes else ""
        quantize = f", {self.quantize}" if self.quantize else ""
        return (
            "name: zoo\n"
            f'model: {{python: "model.py:{self.factory}"{weights}{inputs}}}\n'
            f"data: {section}\n"
            f"task: {self.task}\n"
            f"passes:\n{passes}"
            "branches:\n"
            "  - name: x86\n"
            "    target: x86-avx2\n"
            f"    bench: {self.bench}\n"
            "    passes:\n"
            "      - {kind: export-onnx}\n"
            f"      - {{kind: quantize, guard: false{quantize}}}\n"
            f"    gates: {self.gates}\n"
            "  - name: rtx\n"
            "    target: rtx\n"
            "    bench: off\n"
            "    passes:\n"
            "      - {kind: export-onnx}\n"
            f"      - {{kind: quantize, guard: false{quantize}}}\n"
            f"      - {{kind: build-tensorrt{shapes}}}\n"
        )

    def write(self, folder: Path) -> Path:
        """Write the project, with weights that its owner trained."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(self.model)
        if self.data:
            (folder / "data.py").write_text(self.data)
        for name, text in self.files.items():
            (folder / name).write_text(text)
        (folder / "recipe.yaml").write_text(self.recipe())
        if self.loss:
            train(folder, self)
        return folder


def train(folder: Path, project: Project) -> None:
    """Train as the project's owner did: plain PyTorch, on what the recipe leaves for training."""
    import torch
    import yaml
    from safetensors.torch import save_model

    from edgekit.data import DataConfig, open_data
    from edgekit.entry import load_entry

    torch.set_num_threads(1)
    section = yaml.safe_load((folder / "recipe.yaml").read_text())["data"]
    data = open_data(DataConfig.model_validate(section), folder)
    network = load_entry(f"model.py:{project.factory}", folder)()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    torch.manual_seed(0)
    network.train()
    for epoch in range(project.epochs):
        for batch in data.batches("train", 32, shuffle_seed=epoch, drop_last=True):
            inputs = [torch.from_numpy(np.array(x)) for x in batch.inputs.values()]
            out = network(*inputs)
            first = next(iter(out.values())) if isinstance(out, dict) else out
            if project.loss == "statistics":
                continue
            if project.loss == "classes":
                labels = torch.from_numpy(np.array(batch.targets)).long()
                loss = torch.nn.functional.cross_entropy(first, labels)
            else:
                loss = torch.nn.functional.mse_loss(first, inputs[0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_model(network.eval(), str(folder / "weights.safetensors"))


@dataclass(frozen=True)
class Run:
    """A finished run of the installed command."""

    folder: Path
    out: Path
    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """What `--json` printed."""
        return json.loads(self.stdout)

    def step(self, branch: str | None, kind: str) -> dict[str, Any]:
        """The first step of a kind, in a branch or in the shared chain."""
        report = self.report
        chain = report["shared"] + [report["original"]]
        if branch is not None:
            chain = next(b for b in report["branches"] if b["name"] == branch)["steps"]
        return next(s for s in chain if s["kind"] == kind)

    def steps(self) -> list[dict[str, Any]]:
        """Every step."""
        report = self.report
        return report["shared"] + [s for b in report["branches"] for s in b["steps"]]

    def warnings(self) -> list[str]:
        """Every warning, once."""
        steps = [self.report["original"], *self.steps()]
        return list(dict.fromkeys(w for s in steps for w in s["warnings"]))

    def answers(self, branch: str, kind: str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """What a step's ONNX file computes."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        path = self.out / self.step(branch, kind)["path"] / "model.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)


def run(folder: Path, *args: str) -> Run:
    """Run the installed command on a project."""
    out = folder / "out"
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(EDGEKIT), "run", "recipe.yaml", "-o", str(out), "--threads", "1", "--json", *args],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Run(folder, out, done.returncode, done.stdout, done.stderr)
