"""A benchmark kept in a file, and a later one held against it, where they can be compared at all.

Two runs at two times see two moods of one machine: a stored baseline is less sure than models that
are interleaved. So it is refused wherever anything but the model differs.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UsageError
from edgekit.manifest import write_text_atomically

if TYPE_CHECKING:
    from edgekit.bench import BenchResult, Comparison, Protocol, SubjectResult
    from edgekit.bench.result import Verdict
    from edgekit.bench.statistics import Floats

# What `edgekit bench --json` says beside the benchmark's own result.
EXTRA_KEYS = ("layers", "against_baseline")
LESS_SURE = (
    "The baseline was measured at another time, and a machine's mood changes: interleaved models"
    " (`edgekit compare A B`) are surer."
)
_LEAST_BLOCKS = 8
_SHOWN = 12


def read(path: Path) -> "BenchResult":
    """Read what `edgekit bench --json` wrote.

    Raises:
        UsageError: the file is missing, is no benchmark result, or lacks what a comparison needs.
    """
    from edgekit.bench import BenchResult

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(
            f"The baseline {path} cannot be read: {e.strerror}.",
            "Make one with `edgekit bench MODEL --json > base.json`.",
        ) from e
    except ValueError as e:
        raise UsageError(
            f"The baseline {path} is not JSON.",
            "Make one with `edgekit bench MODEL --json > base.json`.",
        ) from e
    if not isinstance(data, dict) or "schema_version" not in data:
        raise UsageError(
            f"{path} is not a result of `edgekit bench --json`.", "Give one as the baseline."
        )
    if "results" in data:
        raise UsageError(
            f"{path} holds the results of several devices: {', '.join(data['results'])}.",
            "Measure one device for a baseline.",
        )
    try:
        found = BenchResult.from_dict({k: v for k, v in data.items() if k not in EXTRA_KEYS})
    except UsageError as e:
        raise UsageError(f"The baseline {path}: {e.message}", e.hint) from e
    if not found.complete:
        raise UsageError(
            f"The baseline {path} was stopped before its end.", "Measure it again, to its end."
        )
    return found


def check_before(
    baseline: "BenchResult",
    path: Path,
    names: Sequence[str],
    protocol: "Protocol",
    device: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a baseline that cannot fit, before time is spent on measuring.

    Args:
        baseline: the stored result.
        path: its file, for the message.
        names: what the models to measure are called.
        protocol: of the run to come.
        device: the fingerprint of this machine; None where another one measures.

    Raises:
        UsageError: names every difference.
    """
    known = [subject.name for subject in baseline.subjects]
    if not set(known) & set(names):
        raise UsageError(
            f"The baseline {path} has none of these models: {', '.join(names)}.",
            f"It has {', '.join(known)}; a model is found by its name.",
        )
    differences = list(_of_protocol(baseline.protocol, asdict(protocol)))
    if device is not None:
        differences += _of_device(baseline.device, device)
    _refuse(path, differences)


def differences(baseline: "BenchResult", result: "BenchResult") -> list[str]:
    """Everything but the models in which two results differ, one phrase each."""
    found = [
        *_of_device(baseline.device, result.device),
        *_of_protocol(baseline.protocol, result.protocol),
    ]
    for then, now in _pairs(baseline, result):
        found += _of_subject(then, now)
    return found


def against(baseline: "BenchResult", path: Path, result: "BenchResult") -> dict[str, "Comparison"]:
    """Compare a result with a stored one, model by model of the same name.

    Args:
        baseline: the stored result.
        path: its file, for the message.
        result: what was measured now.

    Returns:
        By model name. The ratio of the runs' medians over blocks, with its interval by a moving
        bootstrap of the blocks of either run.

    Raises:
        UsageError: something but the models differs; names everything that does.
    """
    _refuse(path, differences(baseline, result))
    return {
        now.name: _compare(then, now, baseline, result) for then, now in _pairs(baseline, result)
    }


def _pairs(
    baseline: "BenchResult", result: "BenchResult"
) -> Iterator[tuple["SubjectResult", "SubjectResult"]]:
    known = {subject.name: subject for subject in baseline.subjects}
    for subject in result.subjects:
        if subject.name in known:
            yield known[subject.name], subject


def _refuse(path: Path, found: Sequence[str]) -> None:
    if not found:
        return
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise UsageError(
        f"The baseline {path} was measured under other conditions:"
        f" {'; '.join(found[:_SHOWN])}{more}.",
        "Measure the baseline again here, in the same way.",
    )


def _of_device(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if then.get("digest") == now.get("digest"):
        return []
    keys = [key for key in dict.fromkeys((*then, *now)) if key != "digest"]
    changed = [_phrase(key, then.get(key), now.get(key)) for key in keys]
    return [text for text in changed if text] or ["another device"]


def _of_protocol(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    then, now = _plain(then), _plain(now)
    for key in ("form", "mode", "sustained_s", "affinity"):
        before, after = then.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            for part in dict.fromkeys((*before, *after)):
                if text := _phrase(f"{key} {part}", before.get(part), after.get(part)):
                    yield text
        elif text := _phrase(key, before, after):
            yield text


def _of_subject(then: "SubjectResult", now: "SubjectResult") -> Iterator[str]:
    name = now.name
    if text := _phrase(f"runtime of {name}", then.runtime, now.runtime):
        yield text
    for what, before, after in (
        ("", _plain(then.options), _plain(now.options)),
        ("input ", then.inputs, now.inputs),
    ):
        for key in dict.fromkeys((*before, *after)):
            if text := _phrase(f"{what}{key} of {name}", before.get(key), after.get(key)):
                yield text


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON would give them back: tuples are lists there. Build facts are the model's."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(options), default=str))
    plain.pop("build", None)
    return plain


def _phrase(what: str, then: Any, now: Any) -> str:
    return "" if then == now else f"{what} was {_text(then)} and is {_text(now)}"


def _text(value: Any) -> str:
    return "absent" if value is None else str(value)


def _compare(
    then: "SubjectResult", now: "SubjectResult", baseline: "BenchResult", result: "BenchResult"
) -> "Comparison":
    from edgekit.bench import Comparison, Figure, statistics
    from edgekit.bench.api import LEAST_DIFFERENCE, verdict

    before, after = np.array(then.block_medians_ms), np.array(now.block_medians_ms)
    floors = [r.aa_floor.value for r in (baseline, result) if r.aa_floor.value is not None]
    threshold = max(LEAST_DIFFERENCE, *floors) if floors else LEAST_DIFFERENCE
    note = "against a stored baseline"
    if min(len(before), len(after)) < _LEAST_BLOCKS or then.drift or now.drift:
        why = "drift: no interval" if then.drift or now.drift else "too few blocks: no interval"
        ratio, low, high = _ratio(then, now), None, None
        note = f"{note}; {why}"
        judged = _verdict_of_ranges(before, after, threshold)
    else:
        ratio = float(np.median(before) / np.median(after))
        seed = int(result.protocol.get("seed", 0))
        low, high = statistics.ratio_interval(before, after, seed=seed)
        low, high = min(low, ratio), max(high, ratio)
        judged = verdict(ratio, low, high, threshold)
    return Comparison(
        subject=now.name,
        baseline=f"{now.name} (stored)",
        speedup=Figure(ratio, low, high, "x", now.p50_ms.label, note),
        verdict=judged if result.complete else "inconclusive",
        threshold=threshold,
        rounds=min(len(before), len(after)),
        loads=1,
    )


def _verdict_of_ranges(before: "Floats", after: "Floats", threshold: float) -> "Verdict":
    """Judge two runs that allow no interval, by the ranges of their blocks.

    A run that drifts says nothing of a few percent, but one whose fastest block takes ten times
    the other's slowest is slower all the same, and a gate must not let it by.

    Args:
        before: shape (blocks,): block medians of the stored run, in ms.
        after: shape (blocks,): of this run.
        threshold: the least difference that counts, as a fraction.
    """
    from edgekit.bench.api import verdict

    if min(len(before), len(after)) < _LEAST_BLOCKS:
        return "inconclusive"
    low, high = float(before.min() / after.max()), float(before.max() / after.min())
    return verdict(high if high < 1 else low, low, high, threshold)


def _ratio(then: "SubjectResult", now: "SubjectResult") -> float:
    before, after = then.p50_ms.value, now.p50_ms.value
    return before / after if before and after else math.nan


def save(path: Path, plain: Mapping[str, Any]) -> None:
    """Write a result as a baseline, whole or not at all."""
    write_text_atomically(path, json.dumps(plain, indent=2) + "\n")
