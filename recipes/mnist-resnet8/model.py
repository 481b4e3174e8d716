"""The reference network: MLPerf Tiny's ResNet-8 layout at twice its width, for 28x28 digits.

One residual block a stage, three stages (strides 1, 2, 2), as in MLPerf Tiny's image
classification model (Banbury et al., 2021, arXiv:2106.07597; layout of He et al., 2016,
arXiv:1512.03385), with 32, 64 and 128 channels in place of 16, 32 and 64. It is plain PyTorch and
knows nothing of edgekit.
"""

import torch
from torch import nn

CHANNELS = (32, 64, 128)
"""Channels of the three stages; the stem has as many as the first."""


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, and a 1x1 convolution where the shape changes.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: stride of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block.

        Args:
            x: shape (n, inputs, h, w), float32.

        Returns:
            Shape (n, outputs, h / stride rounded up, w / stride rounded up), float32.
        """
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet8(nn.Module):
    """A stem, three residual stages of one block each, global average pooling and a classifier.

    Args:
        channels: channels of the three stages.
        classes: number of classes.
    """

    def __init__(self, channels: tuple[int, int, int] = CHANNELS, classes: int = 10) -> None:
        super().__init__()
        first, second, third = channels
        self.stem = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.stage1 = Block(first, first, 1)
        self.stage2 = Block(first, second, 2)
        self.stage3 = Block(second, third, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(third, classes)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Classify digits.

        Args:
            image: shape (n, 1, 28, 28), float32 in [0, 1].

        Returns:
            `logits`: shape (n, 10), float32.
        """
        x = self.relu(self.norm(self.stem(image)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return {"logits": self.classifier(self.pool(x).flatten(1))}


def build() -> nn.Module:
    """Build the network with random weights, as the recipe's `model: python:` does."""
    return ResNet8()
