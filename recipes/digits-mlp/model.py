"""The reference network: a multi-layer perceptron for tabular data, 64 features to 10 classes.

Two hidden layers of 256 with batch norm, ReLU and dropout. It is plain PyTorch and knows nothing of
edgekit.
"""

import torch
from torch import nn


class Mlp(nn.Module):
    """Linear, batch norm, ReLU and dropout, twice; then a linear classifier.

    Args:
        features: number of input columns.
        hidden: width of the hidden layers.
        classes: number of classes.
        dropout: share of hidden units dropped in training.
    """

    def __init__(
        self, features: int = 64, hidden: int = 256, classes: int = 10, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Classify rows.

        Args:
            features: shape (n, 64), float32 in [0, 1].

        Returns:
            Logits, shape (n, 10), float32.
        """
        return self.classifier(self.layers(features))


def build() -> nn.Module:
    """Build the network with random weights, as the recipe's `model: python:` does."""
    return Mlp()
