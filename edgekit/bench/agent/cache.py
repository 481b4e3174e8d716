"""Files on the device under the name of their own hash, so that nothing is sent twice.

Beyond 2 GiB the files that were used longest ago are dropped, but never one that the present
session has named. Dropping happens under the lock: a benchmark that runs keeps its files.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edgekit.bench.agent.wire import CHUNK_BYTES, AgentError, broken

LIMIT_BYTES = 2 << 30
SPARE_BYTES = 16 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = ".part-"


def cache_root() -> Path:
    """Return the agent's folder: `${XDG_CACHE_HOME:-~/.cache}/edgekit`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else _home() / ".cache") / "edgekit"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as e:
        raise AgentError(
            "disk", "The device's user has no home folder.", "Set XDG_CACHE_HOME on the device."
        ) from e


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write in a folder."""
    return shutil.disk_usage(folder).free


class Cache:
    """The folder of files by hash.

    Args:
        folder: made where it does not exist.
        limit_bytes: files beyond it are dropped, oldest use first.
        free: says how many bytes are free in the folder; a test gives its own.

    Raises:
        AgentError: the folder cannot be made (kind `disk`).
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int = LIMIT_BYTES,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.folder, self.limit_bytes, self.free = folder, limit_bytes, free
        self._named: set[str] = set()
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def missing(self, files: dict[str, int]) -> list[str]:
        """Return the hashes of the files that are not here; the others count as used now.

        A file whose content is not what its name says is removed, and counts as missing.

        Args:
            files: size by hash.
        """
        self._named |= set(files)
        found = []
        for sha, size in files.items():
            path = self.folder / sha
            if path.is_file() and not path.is_symlink():
                if path.stat().st_size == size and hash_file(path) == sha:
                    os.utime(path)
                    continue
                path.unlink(missing_ok=True)
            found.append(sha)
        return found

    def make_room(self, coming_bytes: int) -> None:
        """Drop files that were used longest ago until what comes fits.

        Raises:
            AgentError: it does not fit even so (kind `disk`).
        """
        old = sorted((path for path in self._files() if path.name not in self._named), key=_used_at)
        total = sum(path.stat().st_size for path in self._files())
        need = coming_bytes + SPARE_BYTES
        while old and (total + coming_bytes > self.limit_bytes or self.free(self.folder) < need):
            path = old.pop(0)
            total -= path.stat().st_size
            path.unlink()
        self.check_room(coming_bytes)

    def check_room(self, coming_bytes: int) -> None:
        """Raise AgentError (kind `disk`) where as many bytes do not fit."""
        if self.free(self.folder) < coming_bytes + SPARE_BYTES:
            raise full(self.folder, self.free(self.folder), coming_bytes)

    def store(self, sha: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write a file that comes in pieces, under its hash, whole or not at all.

        All pieces are taken in any case, so that the next line is where it is expected.

        Raises:
            AgentError: the disk is full (kind `disk`), or the bytes are not those of the hash.
        """
        self._named.add(sha)
        pieces = iter(chunks)
        temporary: Path | None = None
        try:
            with disk_errors(self.folder, size):
                self.check_room(size)
                handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=self.folder)
                temporary = Path(name)
                with os.fdopen(handle, "wb", buffering=0) as file:
                    found = hashlib.sha256()
                    for chunk in pieces:
                        found.update(chunk)
                        _write(file.fileno(), chunk)
                    os.fsync(handle)
                if found.hexdigest() != sha:
                    raise broken(f"The bytes sent as {sha[:16]}… have another hash.")
                temporary.replace(self.folder / sha)
                temporary = None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            for _ in pieces:
                pass

    def path(self, sha: str) -> Path:
        """Return the file of a hash.

        Raises:
            AgentError: it was never sent, or has been dropped since.
        """
        path = self.folder / sha
        if path.is_symlink() or not path.is_file():
            raise broken(f"The file {sha[:16]}… is not on the device: it was not sent.")
        return path

    def sweep(self) -> None:
        """Remove what an upload left that was cut off; only while the lock is held."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if len(path.name) == 64]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES * 16):
            found.update(chunk)
    return found.hexdigest()


def full(folder: Path, free: int, size: int = 0) -> AgentError:
    """Return the error that says that a folder's disk is full."""
    wanted = f", and {size} are needed" if size else ""
    return AgentError(
        "disk",
        f"The device's disk is full: {folder} has {free} bytes free{wanted}.",
        "Free some space there, or set XDG_CACHE_HOME on the device to a folder with more.",
    )


@contextlib.contextmanager
def disk_errors(folder: Path, size: int = 0) -> Iterator[None]:
    """Turn errors of the file system into errors of kind `disk` that name the folder."""
    try:
        yield
    except OSError as e:
        if e.errno in FULL:
            raise full(folder, _free_or_none(folder), size) from e
        raise AgentError(
            "disk",
            f"The device cannot write to {folder}: {e.strerror or e}.",
            "Set XDG_CACHE_HOME on the device to a folder that can be written to.",
        ) from e


def _free_or_none(folder: Path) -> int:
    try:
        return free_bytes(folder)
    except OSError:
        return 0


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _used_at(path: Path) -> float:
    return path.stat().st_mtime
