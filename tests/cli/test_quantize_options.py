"""Options of `edgekit quantize` that are misspelt."""

from pathlib import Path

import pytest

from edgekit.cli import common, quantize_command
from edgekit.errors import UsageError
from edgekit.passes.quantize import Quantize


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"gate": {"acuracy_drop": 0.1}}, "Did you mean 'accuracy_drop'?"),
        ({"gate": {"xyz": 0.1}}, "Valid here: accuracy_drop, slowdown, sqnr_db."),
        ({"rangs": "mse"}, "Did you mean 'ranges'?"),
    ],
)
def test_a_misspelt_key_has_the_keys_of_its_own_place_in_the_hint(
    fields: dict[str, object], hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        common.build(Quantize, fields, "options")
    assert caught.value.hint == hint


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), (None, None)])
def test_the_searchs_limit(
    monkeypatch: pytest.MonkeyPatch, text: str | None, seconds: float | None
) -> None:
    given = {}
    monkeypatch.setattr(
        quantize_command, "apply", lambda _, fields, *_a, **_k: given.update(fields)
    )
    quantize_command.quantize(
        Path("m.onnx"), Path("out"), data=Path("d.npz"), target="rtx", search=text
    )
    assert given["search_s"] == seconds
    assert Quantize().search_s == 900.0
    with pytest.raises(UsageError, match="--search 'soon' is not a length of time"):
        quantize_command.quantize(
            Path("m.onnx"), Path("out"), data=Path("d.npz"), target="rtx", search="soon"
        )
