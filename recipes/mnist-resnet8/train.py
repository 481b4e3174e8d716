"""Train the reference network and write weights.safetensors: `python train.py`.

Only the training split that recipe.yaml declares is learned from; the evaluation split is looked at
once, after the last step, to say how good the network is. About seven minutes on one core.
"""

import argparse
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
import yaml
from model import build
from safetensors.torch import save_file
from torch.nn import functional

from edgekit.data import DataConfig, Dataset, open_data

HERE = Path(__file__).resolve().parent
SEED = 0
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 30, 32, 2e-3, 0.02


def open_recipe_data() -> Dataset:
    """Open the data that the recipe declares, split as it says."""
    recipe = yaml.safe_load((HERE / "recipe.yaml").read_text(encoding="utf-8"))
    return open_data(DataConfig.model_validate(recipe["data"]), HERE)


def tensors(data: Dataset, split: str) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Collect one split: images (n, 1, 28, 28), classes (n,) and ids."""
    batches = list(data.batches(split, 256))
    images = np.concatenate([b.inputs["image"] for b in batches])
    classes = np.concatenate([b.targets for b in batches])
    return torch.tensor(images), torch.tensor(classes), [i for b in batches for i in b.ids]


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn by up to 8 degrees, scale by 8 %, shear by 5 % and shift by 1.5 pixels, at random."""
    count = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(8)), 1 + uniform(0.08), uniform(0.05)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() / scale
    theta[:, 0, 1] = -angle.sin() / scale + shear
    theta[:, 1, 0] = angle.sin() / scale
    theta[:, 0, 2], theta[:, 1, 2] = uniform(1.5 / 14), uniform(1.5 / 14)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(images: torch.Tensor, classes: torch.Tensor, epochs: int) -> torch.nn.Module:
    """Train from scratch with AdamW, warm-up and a cosine schedule."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = build()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    per_epoch = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * per_epoch, pct_start=0.1
    )
    for epoch in range(epochs):
        network.train()
        losses = []
        order = torch.randperm(len(images), generator=generator)[: per_epoch * BATCH]
        for rows in order.split(BATCH):
            logits = network(augment(images[rows], generator))["logits"]
            loss = functional.cross_entropy(logits, classes[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: training loss {np.mean(losses):.4f}", flush=True)
    return network.eval()


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor) -> float:
    """Share of images whose largest logit is their class."""
    right = [
        (network(x)["logits"].argmax(1) == y).sum()
        for x, y in zip(images.split(250), classes.split(250), strict=True)
    ]
    return int(torch.stack(right).sum()) / len(images)


def main() -> None:
    """Train, evaluate once, and write the weights with what they were trained on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "weights.safetensors")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = open_recipe_data()
    images, classes, ids = tensors(data, "train")
    network = train(images, classes, arguments.epochs)
    held_out = accuracy(network, *tensors(data, "evaluation")[:2])
    metadata = {
        "train_ids_sha256": hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest(),
        "training_samples": str(len(ids)),
        "epochs": str(arguments.epochs),
        "seed": str(SEED),
        "evaluation_accuracy": f"{held_out:.4f}",
    }
    save_file(network.state_dict(), arguments.output, metadata)
    print(f"held-out accuracy {held_out:.4f}; wrote {arguments.output}")


if __name__ == "__main__":
    main()
