"""What a `run` asks for, checked field by field, and its files laid out for the worker."""

import errno
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.bench.agent.cache import Cache, disk_errors
from edgekit.bench.agent.wire import Message, broken, checked_hash, checked_text

MOST_SUBJECTS = 64
MOST_FILES = 4096
MOST_METERS = 16
MOST_PRECISIONS = 16
MOST_PARTS = 16
MOST_NAME_BYTES = 255
CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


def lay_out(message: Message, cache: Cache, folder: Path) -> dict[str, Any]:
    """Check a request and put its files into the work folder.

    Args:
        message: of type `run`.
        cache: where the files are.
        folder: the work folder, empty.

    Returns:
        The request with paths in place of hashes, as the worker takes it.

    Raises:
        AgentError: the request is malformed, or names a file that was not sent (kind `protocol`).
    """
    request = message.get("request")
    if not isinstance(request, dict):
        raise broken("`run` has no request.")
    subjects = request.get("subjects")
    if not isinstance(subjects, list) or not 0 < len(subjects) <= MOST_SUBJECTS:
        raise broken(f"A run has 1 to {MOST_SUBJECTS} subjects.")
    meters = request.get("meters") or []
    if not isinstance(meters, list) or len(meters) > MOST_METERS:
        raise broken(f"A run has at most {MOST_METERS} meters.")
    return {
        "subjects": [
            _subject(each, cache, folder / f"subject-{place}")
            for place, each in enumerate(subjects)
        ],
        "protocol": _object(request.get("protocol") or {}, "The protocol"),
        "baseline": _text_or_none(request.get("baseline"), "The baseline"),
        "meters": [checked_text(each, "A meter") for each in meters],
        "layers": bool(request.get("layers")),
        "roofline": {
            checked_text(name, "The name of a subject"): [
                checked_text(each, "A precision", 64) for each in _list(wanted, "The precisions")
            ]
            for name, wanted in _object(request.get("roofline") or {}, "The roofline").items()
        },
        "power_mode": _text_or_none(request.get("power_mode"), "The power mode"),
        "emulated": bool(request.get("emulated")),
    }


def lay_out_build(message: Message, cache: Cache, folder: Path) -> dict[str, Any]:
    """Check the request of a `build`, and put its files into the work folder.

    Args:
        message: of type `build`.
        cache: where the files are.
        folder: the work folder, empty.

    Returns:
        The plan, and where the model and the timing caches lie, as the worker takes it.

    Raises:
        AgentError: the request is malformed, or names a file that was not sent (kind `protocol`).
    """
    request = _object(message.get("request"), "The request of `build`")
    timings = _object(request.get("timings") or {}, "The timing caches")
    if len(timings) > MOST_FILES:
        raise broken(f"A build has at most {MOST_FILES} timing caches.")
    kept = folder / "timings"
    with disk_errors(folder):
        kept.mkdir(mode=0o700)
    for name, sha in timings.items():
        _place(cache.path(checked_hash(sha)), kept, relative_path(name))
    return {
        "model": str(_model(_object(request.get("model"), "A model"), cache, folder / "subject-0")),
        "timings": str(kept),
        "plan": _object(request.get("plan"), "The plan"),
        "power_mode": None,
        "emulated": False,
    }


def relative_path(name: object) -> PurePosixPath:
    """Check the name of a file that is to lie inside a folder.

    Raises:
        AgentError: it leads elsewhere (`..`, an absolute path), or is no name of a file.
    """
    text = checked_text(name, "The name of a file")
    path = PurePosixPath(text)
    if (
        str(path) != text
        or path.is_absolute()
        or not path.parts
        or len(path.parts) > MOST_PARTS
        or any(
            part == ".." or len(part.encode()) > MOST_NAME_BYTES or not part.isprintable()
            for part in path.parts
        )
        or "\\" in text
    ):
        raise broken(f"{text[:80]!r} is not the name of a file inside a folder.")
    return path


def _subject(subject: object, cache: Cache, folder: Path) -> dict[str, Any]:
    about = _object(subject, "A subject")
    model = _object(about.get("model"), "A model")
    path = _model(model, cache, folder)
    feeds = folder.with_name(f"{folder.name}.npz")
    _place(cache.path(checked_hash(about.get("feeds"))), feeds.parent, PurePosixPath(feeds.name))
    return {
        "name": checked_text(about.get("name"), "The name of a subject"),
        "runtime": checked_text(about.get("runtime"), "The runtime", 64),
        "model": str(path),
        "shown": str(path.relative_to(folder)),
        "feeds": str(feeds),
        "options": _object(about.get("options") or {}, "The options"),
    }


def _model(model: dict[str, Any], cache: Cache, folder: Path) -> Path:
    """Put a model and what belongs beside it into a new folder; where it lies."""
    beside = _object(model.get("beside") or {}, "What lies beside a model")
    if len(beside) > MOST_FILES:
        raise broken(f"A model has at most {MOST_FILES} files beside it.")
    name = relative_path(model.get("name"))
    files = [(name, model.get("sha256"))]
    files += [(relative_path(each), sha) for each, sha in beside.items()]
    with disk_errors(folder):
        folder.mkdir(mode=0o700)
    for path, sha in files:
        _place(cache.path(checked_hash(sha)), folder, path)
    return folder / name


def _place(source: Path, folder: Path, name: PurePosixPath) -> None:
    """Link a file into a folder, or copy it where the file system has no links.

    The folder is new and nobody else writes there, so that no symbolic link can lie on the way.
    """
    target = folder / name
    with disk_errors(folder, source.stat().st_size):
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.link(source, target, follow_symlinks=False)
        except (FileExistsError, NotADirectoryError) as e:
            raise broken(f"Two files of a model are called {str(name)[:80]!r}.") from e
        except OSError as e:
            if e.errno not in CANNOT_LINK:
                raise
            shutil.copyfile(source, target)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise broken(f"{what} is not a JSON object.")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_PRECISIONS:
        raise broken(f"{what} are not a list of at most {MOST_PRECISIONS}.")
    return value


def _text_or_none(value: object, what: str) -> str | None:
    return None if value is None else checked_text(value, what)
