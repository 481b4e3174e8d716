"""Task metrics against slow, independent computations; intervals by simulated cover."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgekit.errors import UsageError
from edgekit.metrics import (
    METRICS,
    METRICS_OF,
    Task,
    answers,
    changes,
    evaluate_predictions,
    paired_drop,
    tango,
    wilson,
)

RNG = np.random.default_rng(7)
LABELS = RNG.integers(0, 3, 60)
LOGITS = RNG.normal(size=(60, 3)) + 1.2 * np.eye(3)[LABELS]
IDS = [f"s{i}" for i in range(60)]


def value(kind: str, metric: str, output: Any, targets: Any) -> float:
    found, _ = evaluate_predictions(
        Task.model_validate({"kind": kind, "metric": metric}),
        {"y": np.asarray(output)},
        np.asarray(targets),
        [str(i) for i in range(len(targets))],
    )
    assert found.low <= found.value <= found.high
    assert found.n == len(targets)
    return found.value


# --- the figures


def f1(label: int, answered: np.ndarray) -> float:
    hit = sum(a == t == label for a, t in zip(answered, LABELS, strict=True))
    said, there = sum(answered == label), sum(label == LABELS)
    precision, recall = hit / said, hit / there
    return 2 * precision * recall / (precision + recall)


def test_classification_metrics_by_hand() -> None:
    answered = LOGITS.argmax(axis=1)
    assert value("classification", "accuracy", LOGITS, LABELS) == np.mean(answered == LABELS)
    shares = [np.mean(answered[c == LABELS] == c) for c in range(3)]
    found = value("classification", "balanced-accuracy", LOGITS, LABELS)
    assert found == pytest.approx(np.mean(shares), abs=1e-12)
    found = value("classification", "macro-f1", LOGITS, LABELS)
    assert found == pytest.approx(np.mean([f1(c, answered) for c in range(3)]), abs=1e-12)


def test_classification_metrics_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    answered = LOGITS.argmax(axis=1)
    for name, oracle in {
        "accuracy": metrics.accuracy_score(LABELS, answered),
        "balanced-accuracy": metrics.balanced_accuracy_score(LABELS, answered),
        "macro-f1": metrics.f1_score(LABELS, answered, average="macro"),
    }.items():
        assert value("classification", name, LOGITS, LABELS) == pytest.approx(oracle, abs=1e-12)


def test_auc_counts_pairs_and_ties_half() -> None:
    scores = np.round(RNG.normal(size=40), 1)  # rounded, so that there are ties
    targets = (RNG.random(40) < 0.4).astype(np.int64)
    pairs = itertools.product(scores[targets == 1], scores[targets == 0])
    wins = [(p > n) + 0.5 * (p == n) for p, n in pairs]
    expected = pytest.approx(np.mean(wins), abs=1e-12)
    assert value("anomaly", "roc-auc", scores, targets) == expected
    assert value("anomaly", "roc-auc", scores[:, None], targets) == expected
    two = np.stack([-scores, scores], axis=1)
    assert value("classification", "roc-auc", two, targets) == expected


def test_errors_and_psnr_by_hand() -> None:
    output = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 1.0]])
    targets = np.array([[0.0, 0.0], [0.5, 0.5], [0.0, 0.5]])
    squares = np.array([0.5, 0.0, 0.625])
    assert value("regression", "mse", output, targets) == pytest.approx(squares.mean())
    assert value("regression", "rmse", output, targets) == pytest.approx(np.sqrt(squares.mean()))
    assert value("regression", "mae", output, targets) == pytest.approx(np.mean([0.5, 0, 0.75]))
    decibels = np.mean([-10 * np.log10(0.5), 100.0, -10 * np.log10(0.625)])
    assert value("reconstruction", "psnr", output, targets) == pytest.approx(decibels)
    assert value("regression", "mae", output[:, 0], targets[:, :1]) == pytest.approx(1 / 3)


def test_miou_is_over_all_pixels() -> None:
    labels = RNG.integers(0, 3, (5, 4, 4))
    logits = RNG.normal(size=(5, 3, 4, 4))
    answered = logits.argmax(axis=1)
    shares = {
        c: np.sum((answered == c) & (labels == c)) / np.sum((answered == c) | (labels == c))
        for c in range(3)
    }
    found, _ = evaluate_predictions(
        Task(kind="segmentation"), {"y": logits}, labels, [str(i) for i in range(5)]
    )
    assert found.value == pytest.approx(np.mean(list(shares.values())), abs=1e-12)
    assert found.per_class == pytest.approx({str(c): s for c, s in shares.items()})


def test_per_class_and_binary_logits() -> None:
    logits = np.array([-1.0, 2.0, 3.0, -0.1])
    found, _ = evaluate_predictions(Task(), {"y": logits}, np.array([0, 1, 0, 0]), list("abcd"))
    assert found.value == 0.75
    assert found.per_class == {"0": pytest.approx(2 / 3), "1": 1.0}
    assert answers(Task(), {"y": logits}).tolist() == [0, 1, 1, 0]  # type: ignore[union-attr]
    assert answers(Task(kind="regression"), {"y": logits}) is None


@pytest.mark.parametrize("name", sorted(METRICS))
def test_weights_are_repetitions(name: str) -> None:
    """The bootstrap's weighted figure is the plain figure of the repeated samples."""
    metric = METRICS[name]
    if name == "miou":
        output, targets = RNG.normal(size=(30, 3, 2, 2)), RNG.integers(0, 3, (30, 2, 2))
    elif name == "roc-auc":
        output, targets = np.round(RNG.normal(size=30), 1), RNG.integers(0, 2, 30)
    elif name in METRICS_OF["classification"]:
        output, targets = LOGITS[:30], LABELS[:30]
    else:
        output, targets = RNG.random((30, 2)), RNG.random((30, 2))
    statistics = metric.statistics(output, targets)
    weights = RNG.integers(0, 4, 30)
    repeated = metric.statistics(output.repeat(weights, axis=0), targets.repeat(weights, axis=0))
    found = metric.aggregate(statistics)(weights.astype(np.float64))
    assert found == pytest.approx(metric.of(repeated), abs=1e-12)


# --- intervals


def test_wilson_by_its_definition() -> None:
    """Each limit is the rate at which the observed share is 1.96 standard errors away."""
    for hits, n in [(0, 10), (3, 10), (950, 1000), (7, 7)]:
        low, high = wilson(hits, n)
        for limit in (low, high):
            if 1e-9 < limit < 1 - 1e-9:  # 0 and 1 themselves where nothing, or all, was hit
                gap = abs(hits / n - limit) / np.sqrt(limit * (1 - limit) / n)
                assert gap == pytest.approx(1.959964, abs=1e-4)


def pairs(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, first, second, neither]
    return (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )


def likeliest_score(first: int, second: int, n: int, d: float) -> float:
    """The score statistic at d, its nuisance share found by trying them all."""
    q = np.linspace(max(0.0, -d), (1 - d) / 2, 200_001)[1:-1]
    agree = n - first - second
    likelihood = first * np.log(q + d) + second * np.log(q) + agree * np.log(1 - 2 * q - d)
    best = q[likelihood.argmax()]
    return float((first - second - n * d) / np.sqrt(n * (2 * best + d * (1 - d))))


@pytest.mark.parametrize(("first", "second", "n"), [(12, 2, 50), (3, 9, 40), (20, 20, 500)])
def test_tango_by_its_definition(first: int, second: int, n: int) -> None:
    low, high = tango(*pairs(n - first - second, first, second, 0))
    assert likeliest_score(first, second, n, low) == pytest.approx(1.959964, abs=2e-3)
    assert likeliest_score(first, second, n, high) == pytest.approx(-1.959964, abs=2e-3)


def test_tango_agrees_with_mcnemar_and_proves_nothing_by_silence() -> None:
    for first, second in [(10, 2), (9, 3), (20, 9), (20, 10), (4, 0), (3, 0)]:
        low, high = tango(*pairs(50, first, second, 50))
        rejects = (first - second) ** 2 / (first + second) > 1.959964**2
        assert (low > 0) == rejects
        mirrored = tango(*pairs(50, second, first, 50))
        assert mirrored == pytest.approx((-high, -low), abs=1e-9)
    low, high = tango(*pairs(950, 0, 0, 50))  # no difference seen is no proof of none
    assert low == pytest.approx(-high)
    assert high == pytest.approx(3.8415 / 1003.8415, abs=1e-5)
    assert tango(*pairs(0, 30, 0, 0))[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("n", "accuracy", "lost", "won"),
    [
        (200, 0.95, 0.02, 0.01),
        (200, 0.8, 0.1, 0.05),
        (1000, 0.95, 0.01, 0.01),
        (1000, 0.9, 0.05, 0.03),
        (1000, 0.6, 0.01, 0.0),
        (1000, 0.99, 0.005, 0.005),
    ],
)
def test_tango_covers(n: int, accuracy: float, lost: float, won: float) -> None:
    rng = np.random.default_rng(1)
    shares = [accuracy - lost, lost, won, 1 - accuracy - won]
    cells, times = np.unique(rng.multinomial(n, shares, size=4000), axis=0, return_counts=True)
    known: dict[tuple[int, int], bool] = {}
    covered = 0
    for (both, first, second, neither), count in zip(cells.tolist(), times, strict=True):
        if (first, second) not in known:
            low, high = tango(*pairs(both, first, second, neither))
            known[first, second] = low <= lost - won <= high
        covered += count * known[first, second]
    assert covered / 4000 >= 0.94 - 0.005  # a simulation of 4000 is sure to 0.0035


Draw = Callable[[np.random.Generator], tuple[Any, Any]]


def cover(draw: Draw, task: Task, truth: float) -> float:
    """Share of simulated data sets whose interval of the metric holds the truth."""
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(60):
        output, targets = draw(rng)
        ids = [str(i) for i in range(len(targets))]
        found, _ = evaluate_predictions(task, {"y": output}, targets, ids, seed=seed)
        hits += found.low <= truth <= found.high
    return hits / 60


def test_the_bootstrap_covers() -> None:
    """Nominal 95 %; with 60 simulations a true 95 % gives 0.88 or more in 99 of 100."""

    def errors(rng: np.random.Generator) -> tuple[Any, Any]:
        return rng.normal(size=100), np.zeros(100)

    def scores(rng: np.random.Generator) -> tuple[Any, Any]:
        targets = np.arange(80) % 2
        return rng.normal(size=80) + targets, targets

    rmse = Task(kind="regression", metric="rmse")
    assert cover(errors, rmse, 1.0) >= 0.88
    # The AUC of two normals a standard deviation apart is Phi(1 / sqrt(2)).
    assert cover(scores, Task(kind="anomaly"), 0.760250) >= 0.88


def test_intervals_are_the_same_for_the_same_seed() -> None:
    task = Task(metric="macro-f1")
    found = [evaluate_predictions(task, {"y": LOGITS}, LABELS, IDS, seed=s)[0] for s in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0].low != found[2].low


# --- comparing two models


@pytest.mark.parametrize(
    ("kind", "metric", "sign"),
    [(k, m, 1 if METRICS[m].higher_is_better else -1) for k, ms in METRICS_OF.items() for m in ms],
)
def test_a_drop_is_positive_where_the_second_is_worse(kind: str, metric: str, sign: int) -> None:
    rng = np.random.default_rng(3)
    if kind == "segmentation":
        targets: Any = rng.integers(0, 3, (40, 3, 3))
        clean = np.moveaxis(np.eye(3)[targets], -1, 1)
    elif metric == "roc-auc":
        targets = np.arange(60) % 2
        clean = targets.astype(np.float64)
    elif kind == "classification":
        targets = np.arange(60) % 3
        clean = np.eye(3)[targets]
    else:
        targets = rng.random((120, 4))
        clean = targets
    good = clean + 0.2 * rng.normal(size=clean.shape)
    bad = clean + 1.5 * rng.normal(size=clean.shape)
    task = Task.model_validate({"kind": kind, "metric": metric})
    ids = [str(i) for i in range(len(targets))]
    (one, first), (two, second) = (
        evaluate_predictions(task, {"y": y}, targets, ids) for y in (good, bad)
    )
    drop = paired_drop(task, first, second)
    assert drop.value == pytest.approx(sign * (one.value - two.value))
    assert 0 < drop.low <= drop.value <= drop.high
    same = paired_drop(task, first, first)
    assert same.value == 0
    assert same.low <= 0 <= same.high


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(4)
    targets, noise = rng.random(200), rng.normal(size=200)
    task = Task(kind="regression", metric="mae")
    ids = [str(i) for i in range(200)]
    first = evaluate_predictions(task, {"y": targets + noise}, targets, ids)[0:2]
    second = evaluate_predictions(task, {"y": targets + 1.05 * noise}, targets, ids)[0:2]
    drop = paired_drop(task, first[1], second[1])
    assert drop.low > 0
    assert first[0].high > second[0].low  # unpaired, the two intervals overlap


def test_changes_name_the_samples() -> None:
    targets = np.array([0, 1, 2, 0])
    before, after = np.eye(3)[[0, 1, 2, 1]], np.eye(3)[[0, 2, 2, 0]]
    for metric in ("accuracy", "balanced-accuracy", "macro-f1"):
        task = Task(metric=metric)
        sides = [
            (
                evaluate_predictions(task, {"y": y}, targets, list("abcd"))[1],
                answers(task, {"y": y}),
            )
            for y in (before, after)
        ]
        found = changes(task, sides[0], sides[1])
        assert found.right_to_wrong is not None
        assert found.wrong_to_right is not None
        assert found.right_to_wrong.tolist() == [1]
        assert found.wrong_to_right.tolist() == [3]
        assert found.agreement is not None
        assert found.agreement.value == 0.5
    alone = changes(Task(), (None, sides[0][1]), (None, sides[1][1]))
    assert alone.right_to_wrong is None
    assert alone.agreement is not None
    nothing = changes(Task(kind="regression"), (sides[0][0], None), (sides[1][0], None))
    assert (nothing.right_to_wrong, nothing.agreement) == (None, None)


# --- what is refused


@pytest.mark.parametrize(
    ("task", "output", "targets", "says"),
    [
        ({}, np.full((2, 3), np.nan), [0, 1], "NaN or infinity for 2 samples: s0, s1"),
        ({"output": "z"}, np.zeros((2, 3)), [0, 1], "Outputs are y"),
        ({"kind": "none"}, np.zeros((2, 3)), [0, 1], "no metric"),
        ({}, np.zeros((2, 3)), [0, 3], "has 3 classes (0 to 2)"),
        ({}, np.zeros((2, 3)), [-1, 0], "Number the classes"),
        ({}, np.zeros((2, 3, 4)), [0, 1], "no answer for targets"),
        ({}, np.zeros((3, 3)), [0, 1], "3 outputs for 2 targets"),
        ({}, np.zeros((0, 3)), [], "0 outputs for 0 targets"),
        ({"kind": "anomaly"}, np.zeros(2), [1, 1], "undefined"),
        ({"metric": "roc-auc"}, np.zeros((2, 3)), [0, 1], "Choose another metric"),
        ({"kind": "regression"}, np.zeros((2, 3)), [0, 1], "the targets (2,)"),
    ],
)
def test_what_does_not_fit_is_refused(
    task: dict[str, Any], output: np.ndarray, targets: list[int], says: str
) -> None:
    ids = [f"s{i}" for i in range(len(targets))]
    with pytest.raises(UsageError) as caught:
        evaluate_predictions(
            Task.model_validate(task), {"y": output}, np.array(targets, dtype=np.int64), ids
        )
    assert says in str(caught.value)


def test_unequal_samples_are_not_compared() -> None:
    with pytest.raises(UsageError, match="3 samples, the other on 2"):
        paired_drop(Task(), np.zeros((3, 1)), np.zeros((2, 1)))


@pytest.mark.parametrize(
    "fields",
    [{"kind": "regression", "metric": "accuracy"}, {"kind": "gate"}, {"metrik": "accuracy"}],
)
def test_a_task_has_its_own_metrics_only(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Task.model_validate(fields)
