"""Everything that edgekit calls exists in TensorRT 10 and 11, with as many arguments.

`recorded.json` was read from the real modules by `make tensorrt-api`; TensorRT-RTX's is read here.
"""

import json
from pathlib import Path

import pytest

from edgekit.artifact import TensorSpec
from edgekit.lower.snippet import Subject, snippet
from tests.tensorrt_api.read import CLASSES, Api, arity, read
from tests.tensorrt_api.uses import RTX_ONLY, SOURCES, Use, all_uses, uses

RECORDED: dict[str, Api] = json.loads(
    Path(__file__).with_name("recorded.json").read_text(encoding="utf-8")
)


def wrong(found: list[Use], api: Api) -> list[str]:
    """Uses that an interface does not allow."""
    problems = []
    for use in found:
        members = api.get(use.cls, {})
        if use.member not in members:
            problems.append(f"{use.where}: {use.cls}.{use.member} does not exist")
            continue
        limits, count = members[use.member], use.arguments
        if use.cls == "" and count is not None:  # a class that is made
            limits = api.get(use.member, {}).get("__init__", limits)
        if limits and count is not None and not limits[0] <= count <= limits[1]:
            problems.append(f"{use.where}: {use.cls}.{use.member} does not take {count} arguments")
    return problems


@pytest.mark.parametrize("version", RECORDED)
def test_what_is_used_exists(version: str) -> None:
    found = [use for use in all_uses() if use.member not in RTX_ONLY]
    assert wrong(found, RECORDED[version]) == []


def test_what_is_used_exists_in_tensorrt_rtx() -> None:
    module = pytest.importorskip("tensorrt_rtx")
    assert wrong(all_uses(), read(module)) == []


@pytest.mark.parametrize("version", RECORDED)
def test_what_a_snippet_uses_exists(version: str) -> None:
    ends = (TensorSpec(name="x", dtype="float32", shape=(1, 3)),)
    text = snippet(Subject("model.engine", "tensorrt", ends, ends), "python")
    receivers = {
        "trt": "",
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "context": "IExecutionContext",
    }
    found = uses(text, receivers, "infer.py")
    assert {use.cls for use in found} >= {"Logger", *receivers.values()}
    assert wrong(found, RECORDED[version]) == []


def test_both_generations_are_recorded() -> None:
    assert {version.partition(".")[0] for version in RECORDED} == {"10", "11"}
    for api in RECORDED.values():
        assert set(CLASSES) < set(api)


def test_the_source_is_really_read() -> None:
    found = all_uses()
    assert {use.where.partition(":")[0] for use in found} == set(SOURCES)
    assert {use.cls for use in found} >= {*CLASSES, ""} - {"INetworkDefinition"}
    called = {(use.cls, use.member): use.arguments for use in found}
    assert called["IBuilderConfig", "set_timing_cache"] == 2
    assert called["IOptimizationProfile", "set_shape"] == 4
    assert called["BuilderFlag", "STRIP_PLAN"] is None
    assert called["IExecutionContext", "execute_async_v3"] == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("config.set_calibrator(1)", "IBuilderConfig.set_calibrator does not exist"),
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16 does not exist"),
        ("config.set_flag()", "does not take 0 arguments"),
        ("trt.OnnxParser(network)", "does not take 1 arguments"),
        ("trt.Volume", ".Volume does not exist"),
    ],
)
def test_what_tensorrt_11_lacks_is_seen(source: str, message: str) -> None:
    found = uses(source, {"trt": "", "config": "IBuilderConfig"}, "x.py")
    (problem, *_) = wrong(found, RECORDED["11.4.0.106"])
    assert message in problem


def test_signatures() -> None:
    def documented(text: str) -> object:
        def member() -> None: ...

        member.__doc__ = text
        return member

    one = "f(self: a.B, x: Dict[str, int], y: Tuple[int, int] = (1, 2)) -> None\n\nSays f(1) -> 2."
    assert arity(documented(one), own=1) == (1, 2)
    two = "f(*args, **kwargs)\nOverloaded.\n\n1. f(self: B) -> int\n\n2. f(self: B, x: int) -> int"
    assert arity(documented(two), own=1) == (0, 1)
    assert arity(3, own=1) is None
