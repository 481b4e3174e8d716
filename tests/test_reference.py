"""The generated reference says what the code says.

`EDGEKIT_UPDATE_GOLDEN=1 pytest tests/test_reference.py` writes it again.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from edgekit.cli.commands import app
from edgekit.recipe import Recipe

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"


def command_line() -> str:
    """Every command with its help, as Markdown."""
    command = get_command(app)
    context = typer.Context(command, info_name="edgekit")
    text: str = get_docs_for_click(
        obj=command, ctx=context, name="edgekit", title="The command line"
    )
    return text.rstrip() + "\n"


def recipe_schema() -> str:
    """JSON Schema of recipes, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"


@pytest.mark.parametrize(
    ("name", "generate"), [("cli.md", command_line), ("recipe.schema.json", recipe_schema)]
)
def test_the_reference_is_up_to_date(name: str, generate: Callable[[], str]) -> None:
    path = REFERENCE / name
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(generate())
    assert path.read_text() == generate()
