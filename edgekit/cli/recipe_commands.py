"""`edgekit recipe`: look at a recipe without running it."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import common

app = typer.Typer(help="Check, describe and explain recipes.", no_args_is_help=True)
RecipePath = Annotated[Path, typer.Argument(help="A recipe, or a folder that holds recipe.yaml.")]


@app.command()
def validate(recipe: RecipePath, json: common.Json = False) -> None:
    """Check a recipe. Exit code 2 says what is wrong, where, and what was probably meant."""
    from edgekit.pipeline import locate
    from edgekit.recipe import load

    checked = load(locate(recipe))
    common.print_json(checked) if json else typer.echo(f"{recipe} is a valid recipe.")


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from edgekit.recipe import Recipe

    common.print_json(Recipe.model_json_schema())


@app.command()
def explain(recipe: RecipePath, json: common.Json = False) -> None:
    """Say what a recipe would do: each step with every parameter that its targets decide."""
    from edgekit.cli import show
    from edgekit.pipeline import explain as explain_recipe

    plan = explain_recipe(recipe, None)
    common.print_json(plan) if json else show.plan(plan)
