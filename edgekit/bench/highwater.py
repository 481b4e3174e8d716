"""Memory high-water mark of one subject, where the kernel lets the mark be reset.

Linux keeps the largest resident size of a process (`VmHWM`). Writing 5 to `/proc/self/clear_refs`
sets it back to the size now (proc(5), since Linux 4.0), so that each subject gets a mark of its
own. Where that is not permitted, or there is no such file, a subject's mark is unknown. The mark
counts the whole process; what it held before the subject was loaded is taken off.
"""

from pathlib import Path

from edgekit.bench.conditions import peak_rss_bytes, rss_bytes


class HighWater:
    """The process's mark, and what has been seen of it before it was reset.

    Args:
        root: the file system's root; a test gives a folder of its own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._before = 0
        self._base: int | None = None

    def reset(self) -> None:
        """Begin a new mark at what the process holds now."""
        self._before = max(self._before, self._mark() or 0)
        try:
            (self._root / "proc/self/clear_refs").write_text("5")
        except OSError:
            self._base = None
        else:
            self._base = rss_bytes(self._root)

    def growth_bytes(self) -> int | None:
        """How far the process grew above its size at the reset; None where unknown."""
        mark = self._mark()
        if mark is None or self._base is None:
            return None
        return max(0, mark - self._base)

    def process_bytes(self) -> int | None:
        """The largest size of the whole process, resets or not."""
        found = max(self._before, self._mark() or 0, peak_rss_bytes() or 0)
        return found or None

    def _mark(self) -> int | None:
        try:
            text = (self._root / "proc/self/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        for line in text.splitlines():
            fields = line.split()
            if fields[:1] == ["VmHWM:"] and len(fields) > 1 and fields[1].isdigit():
                return int(fields[1]) * 1024
        return None
