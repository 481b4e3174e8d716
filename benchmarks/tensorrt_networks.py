"""Networks that are no classifiers of images, at sizes that people deploy; weights are random."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn


class Speech(nn.Module):
    """Two LSTM layers over 100 frames of 40 mel bands, as a keyword spotter has."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 128, 2, batch_first=True)
        self.head = nn.Linear(128, 35)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, 100, 40) to (batch, 35)."""
        return self.head(self.lstm(frames)[0][:, -1])


class Encoder(nn.Module):
    """Four layers of a transformer over 128 tokens of 256 numbers, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 256)
        self.place = nn.Parameter(torch.randn(128, 256) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(256, 4, 1024, 0.0, "gelu", batch_first=True)
            for _ in range(4)
        )
        self.norm = nn.LayerNorm(256)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, 128) of whole numbers to (batch, 256)."""
        x = self.embed(tokens) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).mean(1)


def block(fan_in: int, fan_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False), nn.BatchNorm2d(fan_out), nn.SiLU()
    )


class Detector(nn.Module):
    """A backbone, a pyramid of two levels and a head: (batch, 4 + 20, boxes), boxes decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            block(3, 32, 2), block(32, 64, 2), block(64, 64), block(64, 128, 2)
        )
        self.deep = nn.Sequential(block(128, 256, 2), block(256, 256))
        self.lateral = nn.Conv2d(256, 128, 1)
        self.merge = block(256, 128)
        self.heads = nn.ModuleList([nn.Conv2d(128, 24, 1), nn.Conv2d(256, 24, 1)])

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, 256, 256) to (batch, 24, 1280)."""
        shallow = self.stem(image)
        deep = self.deep(shallow)
        up = nn.functional.interpolate(self.lateral(deep), scale_factor=2.0, mode="nearest")
        merged = self.merge(torch.cat([shallow, up], 1))
        found = [head(x).flatten(2) for head, x in zip(self.heads, (merged, deep), strict=True)]
        raw = torch.cat(found, 2)
        return torch.cat([raw[:, :2].sigmoid(), raw[:, 2:4].exp(), raw[:, 4:].sigmoid()], 1)


class Segmenter(nn.Module):
    """A U-Net of three levels: transposed convolutions up, and a bilinear resize at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(3, 32), block(32, 64, 2), block(64, 128, 2)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(128, 64, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)]
        )
        self.join = nn.ModuleList([block(128, 64), block(64, 32)])
        self.head = nn.Conv2d(32, 21, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, 128, 128) to (batch, 21, 256, 256)."""
        kept = []
        x = image
        for down in self.down:
            x = down(x)
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, (kept[1], kept[0]), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        logits = self.head(x)
        return nn.functional.interpolate(logits, scale_factor=2.0, mode="bilinear")


class Generator(nn.Module):
    """DCGAN's generator: 100 numbers to an image of 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        widths = (100, 512, 256, 128, 64)
        layers: list[nn.Module] = []
        for step, (fan_in, fan_out) in enumerate(pairwise(widths)):
            stride, padding = (1, 0) if step == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(fan_in, fan_out, 4, stride, padding, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        """(batch, 100) to (batch, 3, 64, 64)."""
        return self.body(noise[:, :, None, None])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "lstm": (Speech, (100, 40), "float"),
    "transformer": (Encoder, (128,), "tokens"),
    "detector": (Detector, (3, 256, 256), "float"),
    "segmenter": (Segmenter, (3, 128, 128), "float"),
    "generator": (Generator, (100,), "float"),
}
"""How each is made, the shape of one sample, and whether it takes numbers or tokens."""


def sample(shape: tuple[int, ...], kind: str, count: int) -> Tensor:
    if kind == "tokens":
        return torch.randint(0, 1000, (count, *shape))
    return torch.randn(count, *shape)


def export_networks(work: Path) -> None:
    """Write each as ONNX, where it is not there."""
    from edgekit.graph.capture import capture
    from edgekit.lower.export import export_onnx

    torch.set_num_threads(1)
    for name, (make, shape, kind) in NETWORKS.items():
        path = work / f"{name}.onnx"
        if path.exists():
            continue
        torch.manual_seed(0)
        export_onnx(capture(make().eval(), (sample(shape, kind, 2),)), path, batches=(1, 2))
        print("exported", name, flush=True)
