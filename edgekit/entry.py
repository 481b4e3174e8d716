"""Entry points: how a recipe names the user's own code (`module:factory`, `file.py:factory`).

This is the one place that imports what a recipe names, so that model factories and data factories
behave alike: the recipe's folder comes first, siblings import each other, near names are suggested,
and an exception of the user's code is shown as theirs. It does run that code: an entry point is
trusted as much as any Python program that one starts.
"""

import difflib
import functools
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.errors import EdgekitError, UsageError

_SPEC = re.compile(
    r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*|.+\.py):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)"
)
_MARK = "__edgekit_folder__"
_FORM = "Write it as `module:factory` or `file.py:factory`."


def load_entry(spec: str, base: Path) -> Callable[..., Any]:
    """Import the callable that `spec` names.

    Args:
        spec: `module:factory`, `package.module:factory` or `file.py:factory`; the factory may be
            dotted (`Class.method`).
        base: the folder that comes first when `module` is looked for, and that `file.py` is
            relative to: the recipe's folder.

    Returns:
        The callable. When it is called, the folder is importable, and an exception of the user's
        code becomes a `UsageError` that shows its last line and chains the cause.

    Raises:
        UsageError: the spec is malformed, nothing has that name (the nearest one is suggested), it
            cannot be called, or importing it raised.
    """
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise UsageError(f"{spec!r} is not an entry point.", _FORM)
    folder, module_name = _place(spec, match["module"], base)
    with _importable(folder), _users_code(spec, folder):
        module = _import(spec, module_name, folder)
    found: Any = module
    for part in match["name"].split("."):
        if not hasattr(found, part):
            raise UsageError(
                f"{spec!r}: {_label(module)} has no {part!r}.", _suggest(part, dir(found))
            )
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(
            f"{spec!r} is a {type(found).__name__}, which cannot be called.",
            "Name a function or a class that returns what is needed.",
        )

    @functools.wraps(found, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        with _importable(folder), _users_code(spec, folder):
            return found(*args, **kwargs)

    return call


def import_modules(names: Iterable[str], base: Path) -> None:
    """Import modules that register something by being imported, such as custom operators.

    Args:
        names: as in a recipe's `imports:`.
        base: the folder that comes first when they are looked for: the recipe's folder.

    Raises:
        UsageError: there is no such module, or importing it raised.
    """
    folder = base.resolve()
    for name in names:
        with _importable(folder), _users_code(name, folder):
            _import(name, name, folder)


def _place(spec: str, module: str, base: Path) -> tuple[Path, str]:
    """The folder to import from, and the module's name in it."""
    if not module.endswith(".py"):
        return base.resolve(), module
    path = (base / module).resolve()
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UsageError(f"{spec!r}: {path} does not exist.", _suggest(path.name, near))
    if not path.stem.isidentifier():
        raise UsageError(
            f"{spec!r}: {path.name} is not a name that Python can import.",
            "Rename the file to letters, digits and underscores.",
        )
    return path.parent, path.stem


def _import(spec: str, name: str, folder: Path) -> ModuleType:
    top = name.partition(".")[0]
    local = _local_modules(folder)
    if top in local and not _is_under(sys.modules.get(top), folder):
        # Another module has the name: Python would silently hand out that one.
        raise UsageError(
            f"{spec!r}: {folder / top} has the name of a Python module that is already loaded.",
            "Rename the file.",
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not (name == e.name or name.startswith(f"{e.name}.")):
            raise  # the module was found; something that it imports was not
        raise UsageError(
            f"{spec!r}: there is no module {name!r} in {folder}, nor is one installed.",
            _suggest(name, local),
        ) from e


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put `folder` first on the import path, and keep other recipes' modules out of the way."""
    _evict(folder)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if _is_under(sys.modules[name], folder):
                setattr(sys.modules[name], _MARK, str(folder))


def _evict(folder: Path) -> None:
    """Forget modules of other folders whose names `folder` uses too (`model.py` is common)."""
    local = _local_modules(folder)
    for name, module in list(sys.modules.items()):
        home = getattr(module, "__dict__", {}).get(_MARK)
        if home is not None and home != str(folder) and name.partition(".")[0] in local:
            del sys.modules[name]


def _local_modules(folder: Path) -> set[str]:
    files = {path.stem for path in folder.glob("*.py")}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return files | packages


def _is_under(module: ModuleType | None, folder: Path) -> bool:
    """Whether `module` came from `folder`; one that is not loaded yet will come from there."""
    if module is None:
        return True
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder)


@contextmanager
def _users_code(spec: str, folder: Path) -> Iterator[None]:
    """Turn what the user's code raises into a UsageError that shows where."""
    try:
        yield
    except EdgekitError:
        raise
    except (Exception, SystemExit) as e:
        raise UsageError(
            f"{spec!r} raised {traceback.format_exception_only(e)[-1].strip()}{_where(e, folder)}.",
            "Mend that code.",
        ) from e


def _where(error: BaseException, folder: Path) -> str:
    """The last line of the user's own code on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    if not own:
        return ""
    return f" at {Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line or '?'}"


def _label(module: ModuleType) -> str:
    return module.__file__ or module.__name__


def _suggest(name: str, known: list[str] | set[str]) -> str:
    visible = sorted(k for k in known if not k.startswith("_"))
    near = difflib.get_close_matches(name, visible, n=1, cutoff=0.4)
    return f"Did you mean {near[0]!r}?" if near else _FORM
