"""The documentation against the code: links lead somewhere, snippets and tables are valid."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from edgekit import target as targets
from edgekit.report.schema import json_schema

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
MARKED = re.compile(r"<!-- (\w+) -->\n```(\w+)\n(.*?)\n```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def snippets(kind):
    found = [
        pytest.param(match[3], id=f"{page.relative_to(ROOT)}-{i}")
        for page in PAGES
        for i, match in enumerate(MARKED.finditer(page.read_text(encoding="utf-8")))
        if match[1] == kind
    ]
    assert found, f"no page has a snippet marked {kind!r}"
    return found


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{link} leads nowhere"
        assert place.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor:
            assert anchor in anchors(place), f"{link}: no such heading"


def test_every_page_can_be_reached_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
            if "://" not in link and link.partition("#")[0]:
                ahead.append((page.parent / link.partition("#")[0]).resolve())
    assert set(PAGES) <= seen


@pytest.mark.parametrize("text", snippets("recipe"))
def test_recipes_in_the_pages_are_valid(text):
    from edgekit import recipe

    parsed = recipe.parse(yaml.safe_load(text))
    parsed.check_formats("pt2")


@pytest.mark.parametrize("text", snippets("branch"))
def test_branches_in_the_pages_are_valid(text):
    from edgekit import recipe

    recipe.Branch.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", snippets("data"))
def test_data_sections_in_the_pages_are_valid(text):
    from edgekit.data import DataConfig

    DataConfig.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", snippets("target"))
def test_targets_in_the_pages_are_valid(text, tmp_path):
    path = tmp_path / "target.yaml"
    path.write_text(text)
    assert targets.load(str(path)).name == yaml.safe_load(text)["name"]


@pytest.mark.parametrize("text", snippets("code"))
def test_code_in_the_pages_compiles(text):
    compile(text, "page", "exec")


@pytest.mark.parametrize("text", snippets("pass"))
def test_the_pass_in_the_page_works(text, tmp_path):
    import onnx

    from edgekit.artifact import Artifact, TensorSpec
    from edgekit.metrics import Task
    from edgekit.passes.base import Context

    spec = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [spec], [out]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    made.mkdir()
    onnx.save(model, source / "model.onnx")
    artifact = Artifact.create(
        source,
        model="model.onnx",
        format="onnx",
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 3)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 3)),),
        made_by="test",
    )
    scope = {"__name__": "page"}
    exec(compile(text, "page", "exec", dont_inherit=True), scope)  # noqa: S102 - our own page
    context = Context(out=made, seed=0, task=Task(kind="none"))
    result = scope["Label"](text="hello").run(artifact, context)
    assert onnx.load(result.path).doc_string == "hello"
    assert result.parents == (artifact.content_hash,)


def test_concepts_names_every_pass_and_every_gate():
    from edgekit import recipe

    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    kinds = [c.model_fields["kind"].default for c in get_args(get_args(recipe.AnyPass)[0])]
    assert kinds
    for word in (*kinds, *recipe.Gates.model_fields):
        assert f"`{word}`" in page, f"docs/concepts.md does not speak of {word}"


def test_targets_page_names_every_target_and_every_field():
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    fields = [*targets.Target.model_fields, *targets.IntegerScheme.model_fields]
    for word in (*targets.names(), *fields):
        assert f"`{word}`" in page, f"docs/targets.md does not speak of {word}"


def test_data_page_names_every_key_and_every_metric():
    from edgekit.data import DataConfig, Preprocess, Split
    from edgekit.metrics import METRICS_OF

    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    words = [w for model in (DataConfig, Preprocess, Split) for w in model.model_fields]
    words += [w for kind, metrics in METRICS_OF.items() for w in (kind, *metrics)]
    for word in set(words) - {"split", "preprocess"}:
        assert f"`{word}`" in page, f"docs/data.md does not speak of {word}"


def test_exit_codes_of_the_pages_are_those_of_the_errors():
    from edgekit import errors

    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    for code in {c.exit_code for c in classes if issubclass(c, errors.EdgekitError)} | {0, 130}:
        assert f"\n| {code} |" in page


def test_labels_of_the_pages_are_those_of_the_report():
    labels = json_schema()["$defs"]["Figure"]["properties"]["label"]["enum"]
    for name in ("concepts.md", "measuring.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for label in labels:
            assert f"| `{label}` |" in page


def test_the_linters_page_has_every_rule_and_every_dialect():
    from edgekit.quantize.rules import RULES

    page = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        fix = " or ".join(rule.kinds) or "no"
        row = f"| `{rule.name}` | {rule.severity} | {rule.why} | {rule.mend} | {fix} |"
        assert row in page, f"docs/lint.md should say {row}"
    for name in targets.dialects():
        assert f"| `{name}` |" in page
