"""Targets are data: every shipped one is valid, and a misspelt one is met with the nearest."""

from pathlib import Path

import pytest

from edgekit import target
from edgekit.errors import RecipeError


@pytest.mark.parametrize("name", target.names())
def test_every_shipped_target_is_valid_and_named_as_its_file(name: str) -> None:
    loaded = target.load(name)
    assert loaded.name == name
    assert loaded.int8 is None or "int8" in loaded.precisions


@pytest.mark.parametrize(
    "name", [n for n in target.names() if target.load(n).build and target.load(n).int8]
)
def test_tensorrt_schemes_are_symmetric_int8(name: str) -> None:
    scheme = target.load(name).int8
    assert scheme is not None
    assert (scheme.activation, scheme.activation_symmetric, scheme.weight_bits) == ("int8", True, 8)
    assert not scheme.quantize_bias


def test_a_misspelt_target_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no target 'jetson-orion'") as raised:
        target.load("jetson-orion")
    assert "jetson-orin" in raised.value.hint
    assert raised.value.exit_code == 2


def test_a_target_file_of_the_users_own(tmp_path: Path) -> None:
    text = (target.FOLDER / "x86-avx2.yaml").read_text().replace("name: x86-avx2", "name: mine", 1)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert target.load(str(path)).name == "mine"
    path.write_text(text + "\ncolour: red\n")
    with pytest.raises(RecipeError, match="colour"):
        target.load(str(path))


@pytest.mark.parametrize("name", target.dialects())
def test_every_dialect_is_named_as_its_file_and_used(name: str) -> None:
    assert target.IntegerScheme.model_validate(name).name == name
    used = [s.name for t in target.names() if (s := target.load(t).int8) is not None]
    assert name in used


def test_what_was_never_tried_says_so() -> None:
    found = {n for n in target.dialects() if target.IntegerScheme.model_validate(n).unverified}
    assert found == {"dla", "ort-arm64"}


def test_an_unknown_dialect_names_the_others(tmp_path: Path) -> None:
    text = (target.FOLDER / "rtx.yaml").read_text().replace("int8: tensorrt", "int8: tensorflow")
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(RecipeError, match="openvino-cpu"):
        target.load(str(tmp_path / "t.yaml"))
