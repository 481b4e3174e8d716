"""Entry points: the recipe's folder, near names, and the user's own exceptions."""

import inspect
import sys
from pathlib import Path

import pytest

from edgekit.entry import load_entry
from edgekit.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ek_helper.py").write_text("VALUE = 7\n")
    (tmp_path / "ek_model.py").write_text(
        "from ek_helper import VALUE\n"
        "class Net:\n"
        "    @staticmethod\n"
        "    def small(): return 'small'\n"
        "def build(width=3):\n"
        "    import ek_late\n"
        "    return VALUE * width + ek_late.ONE\n"
        "def broken():\n"
        "    return {}['weights']\n"
        "def leaves():\n"
        "    raise SystemExit(3)\n"
        "number = 3\n"
    )
    (tmp_path / "ek_late.py").write_text("ONE = 1\n")
    return tmp_path


@pytest.mark.parametrize("spec", ["ek_model:build", "ek_model.py:build"])
def test_loads_from_the_folder_with_siblings_also_when_called(folder: Path, spec: str) -> None:
    build = load_entry(spec, folder)
    assert build() == 22
    assert build(width=2) == 15
    assert list(inspect.signature(build).parameters) == ["width"]
    assert str(folder) not in sys.path


def test_dotted_factories_and_installed_modules(folder: Path) -> None:
    assert load_entry("ek_model:Net.small", folder)() == "small"
    assert load_entry("math:sqrt", folder)(9.0) == 3.0


def test_two_folders_with_the_same_file_names(folder: Path, tmp_path: Path) -> None:
    assert load_entry("ek_model:build", folder)() == 22
    other = tmp_path / "other"
    other.mkdir()
    (other / "ek_model.py").write_text("import ek_helper\ndef build(): return ek_helper.VALUE\n")
    (other / "ek_helper.py").write_text("VALUE = 'other'\n")
    assert load_entry("ek_model:build", other)() == "other"
    assert load_entry("ek_model:build", folder)() == 22


def test_one_folder_runs_a_module_once(folder: Path) -> None:
    (folder / "ek_count.py").write_text("class A: pass\ndef a(): return A\n")
    (folder / "ek_count_2.py").write_text("from ek_count import A\ndef b(): return A\n")
    assert load_entry("ek_count:a", folder)() is load_entry("ek_count_2:b", folder)()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ek_model", "not an entry point"),
        ("ek_model:", "not an entry point"),
        ("ek_model:biuld", "Did you mean 'build'"),
        ("ek_modle:build", "Did you mean 'ek_model'"),
        ("ek_modle.py:build", "Did you mean 'ek_model.py'"),
        ("ek_model:number", "cannot be called"),
    ],
)
def test_names_what_is_wrong(folder: Path, spec: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_entry(spec, folder)
    assert says in str(caught.value)
    assert spec in caught.value.message


def test_the_users_exception_is_chained_and_shown(folder: Path) -> None:
    with pytest.raises(UsageError, match="KeyError: 'weights'") as caught:
        load_entry("ek_model:broken", folder)()
    assert isinstance(caught.value.__cause__, KeyError)
    assert "ek_model.py, line 9" in caught.value.message
    with pytest.raises(UsageError, match="SystemExit: 3"):
        load_entry("ek_model:leaves", folder)()


def test_an_import_that_fails_inside_the_module_is_its_own(folder: Path) -> None:
    (folder / "ek_needs.py").write_text("import ek_not_there_at_all\n")
    with pytest.raises(UsageError, match="No module named 'ek_not_there_at_all'"):
        load_entry("ek_needs:build", folder)
    (folder / "ek_syntax.py").write_text("def build(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        load_entry("ek_syntax:build", folder)


def test_a_file_named_like_a_loaded_module_is_refused(folder: Path) -> None:
    (folder / "json.py").write_text("def build(): return 1\n")
    with pytest.raises(UsageError, match="already loaded"):
        load_entry("json.py:build", folder)
