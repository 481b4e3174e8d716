"""Does the changed network compute what the original does, with the change done in NumPy?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import TensorSpec
from edgekit.lower import check
from edgekit.lower.clean import random_feed
from edgekit.lower.deploy import Boxes, Deployment

Array = NDArray[Any]


def check_deployment(
    original: bytes,
    changed: Path,
    inputs: tuple[TensorSpec, ...],
    wanted: Deployment,
    *,
    atol: float,
    rtol: float,
) -> tuple[check.Difference, list[check.Arrays]]:
    """Run both on random frames and hold the difference against the tolerance.

    Args:
        original: the model before, serialized.
        changed: the file after.
        inputs: of the changed file.
        wanted: what was changed.
        atol: absolute tolerance.
        rtol: relative tolerance.

    Returns:
        The largest difference, and what was fed.

    Raises:
        PassError: an output differs.
    """
    feeds: list[check.Arrays] = []
    for size in (1, 2):
        feed = random_feed(inputs, size, seed=size)
        generator = np.random.default_rng(size)
        for name, value in feed.items():
            if value.dtype == np.uint8:
                feed[name] = generator.integers(0, 256, value.shape).astype(np.uint8)
        if not feeds or any(feed[n].shape != feeds[0][n].shape for n in feed):
            feeds.append(feed)
    reference = _reference(check.onnx_runner(original), wanted)
    found = check.compare(reference, check.onnx_runner(changed), feeds, atol=atol, rtol=rtol)
    return found, feeds


def _reference(run: check.Runner, wanted: Deployment) -> check.Runner:
    old = {new: name for name, new in wanted.rename.items()}

    def reference(feed: Mapping[str, Array]) -> check.Arrays:
        inner = {old.get(n, n): v for n, v in feed.items()}
        if wanted.image is not None:
            name = wanted.image.name or next(iter(inner))
            inner[name] = _normalised(inner[name], wanted)
        outputs = run(inner)
        for name, ending in wanted.append.items():
            outputs[name] = _ended(outputs[name], ending)
        if wanted.boxes is not None:
            name = wanted.boxes.output or next(iter(outputs))
            outputs |= decoded(outputs.pop(name), wanted.boxes)
        chosen = wanted.outputs or tuple(outputs)
        return {wanted.rename.get(n, n): outputs[n] for n in chosen}

    return reference


def _normalised(frames: Array, wanted: Deployment) -> Array:
    image = wanted.image
    assert image is not None  # noqa: S101 - the caller asked
    value = frames.astype(np.float64)
    if image.layout == "NHWC":
        value = value.transpose(0, 3, 1, 2)
    mean, std = (np.asarray(v).reshape(1, -1, 1, 1) for v in (image.mean, image.std))
    return np.asarray((value * image.scale - mean) / std, np.float32)


def _ended(value: Array, ending: str) -> Array:
    if ending == "argmax":
        return np.asarray(value.argmax(1))
    if ending == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-value.astype(np.float64))), value.dtype)
    e = np.exp(value.astype(np.float64) - value.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True), value.dtype)


def decoded(raw: Array, wanted: Boxes) -> check.Arrays:
    """Boxes, scores and detections from a detector's raw output, in NumPy.

    Greedy suppression by class, as ONNX defines NonMaxSuppression: best score first, a box goes
    where it overlaps a kept one by more than the threshold.
    """
    value = raw.transpose(0, 2, 1) if wanted.transposed else raw
    boxes, scores = value[..., :4], value[..., 4:].transpose(0, 2, 1)
    if wanted.format == "centre":
        centre, half = boxes[..., :2], boxes[..., 2:] * np.float32(0.5)
        boxes = np.concatenate([centre - half, centre + half], -1)
    found = [
        (batch, group, box)
        for batch in range(len(scores))
        for group in range(scores.shape[1])
        for box in _suppressed(boxes[batch], scores[batch, group], wanted)
    ]
    detections = np.asarray(found, np.int64).reshape(-1, 3)
    return {"boxes": boxes, "scores": np.ascontiguousarray(scores), "detections": detections}


def _suppressed(boxes: Array, scores: Array, wanted: Boxes) -> list[int]:
    kept: list[int] = []
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    high = np.maximum(boxes[:, :2], boxes[:, 2:])
    area = (high - low).prod(1)
    for box in np.argsort(-scores, kind="stable"):
        if scores[box] <= np.float32(wanted.score_threshold) or len(kept) == wanted.most:
            break
        both = (np.minimum(high[box], high[kept]) - np.maximum(low[box], low[kept])).clip(0)
        inter = both.prod(1) if kept else np.zeros(0)
        union = area[box] + area[kept] - inter
        if not (inter > np.float32(wanted.iou_threshold) * union).any():
            kept.append(int(box))
    return kept
