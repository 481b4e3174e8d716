"""The bench travels to devices whose Python is 3.10: its source must parse there."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(importlib.util.find_spec("edgekit").origin).parent
SOURCES = [*sorted((ROOT / "bench").rglob("*.py")), ROOT / "errors.py", ROOT / "__init__.py"]
NEWER = {"tomllib", "StrEnum", "Self", "UTC", "ExceptionGroup", "assert_never", "override"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_is_python_3_10(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert not NEWER & {alias.name for alias in node.names}
        assert not isinstance(node, ast.TryStar)
