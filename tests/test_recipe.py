"""A recipe is checked whole, before torch is imported; errors say where and what to mend."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import recipe as recipes
from edgekit.errors import RecipeError
from edgekit.recipe import Recipe

MINIMAL = """\
name: demo
model: {python: "model:build", weights: weights.safetensors}
data: {python: "data:load", split: {calibration: 10}}
task: {kind: classification}
passes:
  - kind: prune
    sparsity: 0.5
  - kind: distill
    epochs: 2
branches:
  - name: x86
    target: x86-avx2
    passes:
      - kind: export-onnx
      - kind: quantize
    gates: {accuracy_drop: 0.01, speedup: {budget: 2, on: value}}
"""


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return recipes.load(path)


def test_a_recipe_becomes_passes(tmp_path: Path) -> None:
    recipe = load(tmp_path, MINIMAL)
    assert [p.kind for p in recipe.passes] == ["prune", "distill"]
    assert recipe.branches[0].gates.given()["speedup"].on == "value"
    assert recipe.branches[0].gates.given()["accuracy_drop"].budget == 0.01
    recipe.check_formats("pt2")


@pytest.mark.parametrize(
    ("old", "new", "where", "hint"),
    [
        ("sparsity: 0.5", "sparsty: 0.5", r"passes\[0\]\.sparsty \(line 7\)", "sparsity"),
        ("kind: distill", "kind: destill", r"passes\[1\] \(line 8\)", "distill"),
        ("epochs: 2", "epocs: 2", r"passes\[1\]\.epocs \(line 9\)", "epochs"),
        ("target: x86-avx2", "target: x86_avx2", r"branches\[0\]\.target", "x86-avx2"),
        ("accuracy_drop", "acuracy_drop", r"branches\[0\]\.gates\.acuracy_drop", "accuracy_drop"),
        ("kind: quantize", "kind: quantise", r"branches\[0\]\.passes\[1\]", "quantize"),
        ("calibration: 10", "callibration: 10", r"data\.split\.callibration", "calibration"),
        ("weights:", "wieghts:", r"model\.wieghts", "weights"),
        ("epochs: 2", "epochs: two", r"passes\[1\]\.epochs \(line 9\).*integer", "schema"),
        ("branches:", "branch:", r"branch \(line 10\): no such key", "branches"),
        ("name: x86\n", "name: ../x86\n", r"branches\[0\]\.name", "schema"),
        ("name: x86\n", "name: baselines\n", r"cannot be called 'baselines'", "schema"),
        ("calibration: 10", "calibration: -3", r"data\.split\.calibration \(line 3\)", "schema"),
        ("classification", "clasification", r"task\.kind \(line 4\)", "'classification'"),
        ("kind: quantize", "quantize", r"branches\[0\]\.passes\[1\]", "kind: quantize"),
        ("accuracy_drop: 0.01", "accuracy_drop: .nan", r"gates\.accuracy_drop.*finite", "schema"),
        ("    passes:", "    bench: off\n    passes:", r"'speedup' needs a measurement", "schema"),
        ("accuracy_drop: 0.01", "accuracy_drop: 5", r"5 can never fail.* 5 % is 0\.05", "schema"),
        ("accuracy_drop: 0.01", "accuracy_drop: -1", r"-1 can never be held", "schema"),
        (
            "accuracy_drop: 0.01",
            "accuracy_drop: 2%",
            r"'2%' is no.* 2 % is 0\.02",
            "schema",
        ),
        ("accuracy_drop: 0.01", "accuracy_drop: true", r"true is not a number.*such as", "schema"),
        ("accuracy_drop: 0.01", "agreement: 99", r"99 can never be held.* 99 % is 0\.99", "schema"),
        ("accuracy_drop: 0.01", "agreement: 0", r"gates\.agreement.*0 can never fail", "schema"),
        ("accuracy_drop: 0.01", "p50_ms: 0", r"gates\.p50_ms.*0 can never be held", "schema"),
        ("{budget: 2, on: value}", "-2", r"gates\.speedup.*-2 can never fail", "schema"),
        ("{budget: 2, on", "{budget: 2x, on", r"'2x' is not a number; a gate is", "schema"),
        ("sparsity: 0.5", "target: pi", r"passes\[0\]\.target.*no such key", "key of a branch"),
    ],
)
def test_a_mistake_is_placed_and_the_nearest_name_given(
    tmp_path: Path, old: str, new: str, where: str, hint: str
) -> None:
    with pytest.raises(RecipeError, match=where) as raised:
        load(tmp_path, MINIMAL.replace(old, new, 1))
    assert hint in str(raised.value).replace(str(tmp_path), "")
    assert raised.value.exit_code == 2


def test_several_mistakes_are_told_at_once_each_with_its_own_mend(tmp_path: Path) -> None:
    text = MINIMAL.replace("sparsity: 0.5", "sparsty: 0.5").replace("epochs: 2", "epocs: 2")
    with pytest.raises(RecipeError) as raised:
        load(tmp_path, text.replace("target: x86-avx2", "target: x86_avx2"))
    lines = raised.value.message.splitlines()[1:]
    for key, meant in (("sparsty", "sparsity"), ("epocs", "epochs"), ("target", "x86-avx2")):
        assert [f"'{meant}'" in line for line in lines if f".{key} (line" in line] == [True], lines
    assert raised.value.hint == "`edgekit recipe schema` prints every key."


def test_a_drop_of_a_metric_in_units_of_its_own_may_be_of_any_size(tmp_path: Path) -> None:
    text = MINIMAL.replace("classification", "reconstruction, metric: psnr")
    recipe = load(tmp_path, text.replace("accuracy_drop: 0.01", "accuracy_drop: 5"))
    assert recipe.branches[0].gates.accuracy_drop is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a\n- b\n", "not a mapping"),
        ("", "not a mapping"),
        ("name: a\nname: b\n", "stands twice"),
        ("name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, text)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.yaml does not exist"):
        recipes.load(tmp_path / "gone.yaml")


def test_steps_must_fit_each_other(tmp_path: Path) -> None:
    recipe = load(tmp_path, MINIMAL)
    with pytest.raises(RecipeError, match=r"passes\[0\]: `prune` takes pt2, and gets onnx"):
        recipe.check_formats("onnx")


def test_two_steps_of_one_name_are_refused(tmp_path: Path) -> None:
    text = MINIMAL.replace("kind: distill\n    epochs: 2", "kind: prune\n    sparsity: 0.2")
    with pytest.raises(RecipeError, match="two steps are called 'prune'"):
        load(tmp_path, text)


def test_a_pass_that_needs_data_says_so(tmp_path: Path) -> None:
    lines = [line for line in MINIMAL.splitlines() if not line.startswith("data:")]
    with pytest.raises(RecipeError, match="`distill` needs a `data:` section"):
        load(tmp_path, "\n".join(lines))


def test_the_schema_names_every_pass_and_round_trips(tmp_path: Path) -> None:
    schema: dict[str, Any] = Recipe.model_json_schema()
    text = json.dumps(schema)
    for kind in ("prune", "fine-tune", "distill", "export-onnx", "quantize", "build-tensorrt"):
        assert f'"const": "{kind}"' in text
    recipe = load(tmp_path, MINIMAL)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_target_file_is_found_beside_the_recipe(tmp_path: Path) -> None:
    from edgekit import target

    text = (target.FOLDER / "x86-avx2.yaml").read_text().replace("name: x86-avx2", "name: mine", 1)
    (tmp_path / "mine.yaml").write_text(text)
    recipe = load(tmp_path, MINIMAL.replace("x86-avx2", "mine.yaml"))
    assert recipe.targets()[0].name == "mine"


def test_the_schema_takes_the_short_forms() -> None:
    schema = Recipe.model_json_schema()["$defs"]
    assert {"type": "number"} in schema["Gate"]["anyOf"]
    assert {"type": "string"} in schema["ModelConfig"]["anyOf"]


def test_checking_a_recipe_imports_no_heavy_module(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    code = (
        "import sys, pathlib; from edgekit.recipe import load; load(pathlib.Path('recipe.yaml'));"
        "print([m for m in ('torch','onnx','onnxruntime','nncf','tensorrt','tensorrt_rtx') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
