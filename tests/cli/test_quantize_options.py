"""Options of `edgekit quantize` that are misspelt."""

import pytest

from edgekit.cli import common
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
