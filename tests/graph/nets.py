"""Small networks that the graph tests share; each shows one thing that capture must keep."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.skip(x)
        return self.relu(y)


class Convolutional(nn.Module):
    """A small residual network with a dictionary output and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(Block(3, 8), Block(8, 16, 2))
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.layers(image).mean((2, 3))
        return {"logits": self.fc(self.drop(features)), "features": features}


@dataclass
class Result:
    scores: Tensor
    parts: tuple[Tensor, dict[str, Tensor]]
    nothing: None = None


class TwoInputs(nn.Module):
    """Two inputs, one by keyword only, and a nested dataclass output."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(3, 6)

    def forward(self, left: Tensor, *, right: Tensor, scale: float = 2.0) -> Result:
        x, y = self.a(left), self.b(right)
        return Result(x + scale * y, (x, {"deep": y}))


class Tied(nn.Module):
    """A language-model head that shares its weight with the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embed(tokens))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM):
        super().__init__()
        self.rnn = kind(5, 6, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0])


class FullyConvolutional(nn.Module):
    """Downsamples by 4 and adds a skip, so height and width must be multiples of 4."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 4, 4)
        self.bn = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 1, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.bn(self.down(x)))) + x


class DropsInTraining(nn.Module):
    """Attention dropout, stochastic depth and an auxiliary head, all behind `self.training`."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8, momentum=None)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.25, batch_first=True)
        self.head = nn.Linear(8, 2)
        self.auxiliary = nn.Linear(8, 2)

    def forward(self, x: Tensor):
        y = self.bn(self.conv(x)).flatten(2).transpose(1, 2)
        y = y + self.attention(y, y, y, need_weights=False)[0]
        y = y.mean(1)
        if self.training:
            keep = torch.bernoulli(torch.full((y.shape[0], 1), 0.5))
            return self.head(y * keep), self.auxiliary(y)
        return self.head(F.dropout(y, 0.1, self.training))


def example(name: str):
    """Module, example, dynamic dimensions."""
    torch.manual_seed(0)
    return {
        "conv": lambda: (Convolutional(), {"image": torch.randn(1, 3, 8, 8)}, None),
        "two": lambda: (
            TwoInputs(),
            {"left": torch.randn(1, 4), "right": torch.randn(1, 3)},
            None,
        ),
        "tied": lambda: (
            Tied(),
            {"tokens": torch.tensor([[0, 3, 10, 4]])},
            {"tokens": ["batch", "time"]},
        ),
        "lstm": lambda: (
            Recurrent(),
            {"x": torch.randn(1, 7, 5)},
            {"x": ["batch", "time", 5]},
        ),
        "image": lambda: (
            FullyConvolutional(),
            {"x": torch.randn(1, 1, 16, 24)},
            {"x": ["batch", 1, "4*h", "4*w"]},
        ),
    }[name]()
