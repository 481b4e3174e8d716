"""One benchmark at a time: two would measure each other.

The lock is the kernel's (`flock`), so it goes when its process goes, however that ends. What is
written in the file is for the message that the second host gets.
"""

import fcntl
import json
import os
import time
from pathlib import Path

from edgekit.bench.agent.cache import disk_errors
from edgekit.bench.agent.wire import AgentError

IDLE_S = 900.0
# Others hold it for a moment to look whether it is free, or to tidy the cache.
PATIENCE_S = 1.0
LONGEST_RUN_S = 24 * 3600.0


class Lock:
    """The lock of one device (for one user).

    Args:
        path: the lock's file, which stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._since = 0.0

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._file is not None

    def take(self, owner: str, seconds: float = IDLE_S) -> None:
        """Take it, or, where it is held already, say how long it will be held.

        Args:
            owner: `user@host:pid`, for others to read.
            seconds: it is let go after this at the latest.

        Raises:
            AgentError: another holds it (kind `locked`), or the file cannot be written.
        """
        end = time.monotonic() + PATIENCE_S
        while self._file is None and not self.try_take():
            if time.monotonic() >= end:
                raise self._taken()
            time.sleep(0.1)
        self._note({"owner": owner, "since": self._since, "expires": time.time() + seconds})

    def try_take(self) -> bool:
        """Take it and return True, or return False where another holds it."""
        with disk_errors(self._path.parent):
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except OSError:
                os.close(file)
                raise
        self._file, self._since = file, time.time()
        return True

    def release(self) -> None:
        """Let it go; nothing where it is not held."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                os.ftruncate(file, 0)
            finally:
                os.close(file)

    def _note(self, about: dict[str, object]) -> None:
        if self._file is None:
            return
        text = json.dumps({**about, "pid": os.getpid()}).encode()
        with disk_errors(self._path.parent):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text, 0)

    def _taken(self) -> AgentError:
        owner, since = "another benchmark", ""
        try:
            about = json.loads(self._path.read_text(encoding="utf-8"))
            owner = str(about["owner"])
            began = float(about["since"])
            minutes = max(0.0, time.time() - began) / 60
            clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began))
            since = f" since {clock} ({minutes:.0f} min)"
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it is being written just now, or was written by another version
        return AgentError(
            "locked",
            f"The device is in use by {owner}{since}.",
            "Wait until that benchmark has ended, or end it there.",
        )
