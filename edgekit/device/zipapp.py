"""Build the agent: one file that any Python from 3.10 on can run."""

import functools
import importlib.util
import io
import zipfile
from pathlib import Path

from edgekit.errors import UnavailableError

_MAIN = """\
import sys

from edgekit.bench.agent.__main__ import main

sys.exit(main())
"""
# On a device the supervisor must start where NumPy is missing or broken: the package's usual
# `__init__` imports it.
_BENCH = '"""Measure latency and energy on this machine."""\n'
_EPOCH = (1980, 1, 1, 0, 0, 0)


@functools.lru_cache(maxsize=1)
def build_agent() -> bytes:
    """Pack `edgekit.bench`, `edgekit.errors` and a main program into a zip archive.

    The same sources give the same bytes: names are sorted, times fixed, and nothing is compressed
    (two versions of zlib do not agree).

    Raises:
        UnavailableError: edgekit's own sources are not on disk.
    """
    spec = importlib.util.find_spec("edgekit")
    root = Path(spec.origin).parent if spec and spec.origin else Path()
    names = {f"edgekit/{path.relative_to(root).as_posix()}": path for path in _sources(root)}
    if "edgekit/bench/agent/__main__.py" not in names:
        raise UnavailableError(
            f"edgekit's sources are not in {root}.", "Install edgekit from its wheel."
        )
    texts = {name: path.read_bytes() for name, path in names.items()}
    texts["__main__.py"] = _MAIN.encode()
    texts["edgekit/bench/__init__.py"] = _BENCH.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(texts):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            archive.writestr(info, texts[name])
    return packed.getvalue()


def _sources(root: Path) -> list[Path]:
    return [root / "__init__.py", root / "errors.py", *(root / "bench").rglob("*.py")]
