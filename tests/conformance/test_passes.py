"""What every pass promises, whatever it does: one test runs over all of them."""

from typing import get_args

import pytest
from pydantic import ValidationError

from edgekit import target
from edgekit.artifact import Format
from edgekit.errors import RecipeError
from edgekit.passes.base import Pass
from edgekit.recipe import AnyPass

PASSES: tuple[type[Pass], ...] = get_args(get_args(AnyPass)[0])
REQUIRED = {"prune": {"sparsity": 0.5}, "shrink": {"width": 0.5}}


def make(cls: type[Pass], **fields: object) -> Pass:
    kind = cls.model_fields["kind"].default
    return cls.model_validate({"kind": kind, **REQUIRED.get(kind, {}), **fields})


@pytest.fixture(params=PASSES, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Pass]:
    return request.param


def test_its_name_is_its_kind_in_other_letters(cls: type[Pass]) -> None:
    kind = cls.model_fields["kind"].default
    assert "".join(word.title() for word in kind.split("-")).lower() == cls.__name__.lower()
    assert make(cls).title == kind
    assert make(cls, name="mine").title == "mine"


def test_it_says_what_it_accepts(cls: type[Pass]) -> None:
    assert cls.accepts
    assert cls.accepts <= set(get_args(Format))
    assert cls.__doc__
    assert cls.run.__doc__


def test_it_is_frozen_and_refuses_unknown_fields(cls: type[Pass]) -> None:
    with pytest.raises(ValidationError):
        make(cls, colour="red")
    with pytest.raises(ValidationError):
        make(cls).name = "other"


def test_it_survives_json(cls: type[Pass]) -> None:
    step = make(cls)
    assert cls.model_validate_json(step.model_dump_json()) == step


@pytest.mark.parametrize("name", target.names())
def test_resolving_is_idempotent_and_says_everything(cls: type[Pass], name: str) -> None:
    loaded = target.load(name)
    try:
        once = make(cls).resolve((loaded,))
    except RecipeError as error:
        said = error.message  # this target has no use for this pass
        assert name in said
        return
    assert once.resolve((loaded,)) == once
    assert once.resolve(()) == once


def test_two_targets_give_a_multiple_that_suits_both() -> None:
    from edgekit.passes.prune import Prune

    both = (target.load("x86-avx2"), target.load("rtx"))
    assert Prune(sparsity=0.5).resolve(both).multiple == 32
    assert Prune(sparsity=0.5, multiple=8).resolve(both).multiple == 8


def test_quantizing_for_two_schemes_at_once_is_refused() -> None:
    from edgekit.passes.quantize import Quantize

    with pytest.raises(RecipeError, match="one integer scheme"):
        Quantize().resolve((target.load("x86-avx2"), target.load("rtx")))
