"""What was timed of one subject: every figure's source, in bounded memory.

Thirty minutes of a 20 us model are 90 million inferences. Counts, sums, the minimum and each
round's median are exact. Of the inferences themselves at most `LIMIT` are kept: once there are
more, every second one is let go and from then on only every 2nd, 4th, 8th ... one is taken, so that
what is kept is always every `stride`-th inference of the whole run.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bench.load import Block
from edgekit.bench.protocol import Nanoseconds

LIMIT = 1 << 21


class Thinned:
    """Every `stride`-th value of a stream, at most `limit` of them."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.stride = 1
        self.seen = 0
        self._parts: list[npt.NDArray[Any]] = []
        self._kept = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Take the next values of the stream, shape (n,)."""
        part = values[-self.seen % self.stride :: self.stride].copy()
        self.seen += len(values)
        self._parts.append(part)
        self._kept += len(part)
        while self._kept > self.limit:
            whole = np.concatenate(self._parts)[::2].copy()
            self._parts, self._kept = [whole], len(whole)
            self.stride *= 2

    def values(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """What is kept, in order: shape (kept,)."""
        return np.concatenate(self._parts or [np.zeros(0)]).astype(dtype)


class Tally:
    """Sums over the blocks of one subject.

    Args:
        deadline_ms: answers later than this are counted, None: there is no deadline.
        limit: most inferences that are kept.

    Attributes:
        n: inferences.
        total_ns: sum of their latencies.
        seconds: timed seconds.
        min_ns: the smallest.
        counts: inferences of each round.
        spans: seconds of each round.
        medians_ns: median of each round.
        misses: answers after the deadline, requests that were never served included.
        asked: answers and such requests.
        busy_ns: see `Block`.
        offered_ns: see `Block`.
        late: how late each wait for a scheduled time ended, nanoseconds.
    """

    def __init__(self, deadline_ms: float | None = None, limit: int = LIMIT) -> None:
        self._deadline_ns = None if deadline_ms is None else deadline_ms * 1e6
        self._ns, self._round = Thinned(limit), Thinned(limit)
        self.n = self.total_ns = self.misses = self.asked = self.busy_ns = self.offered_ns = 0
        self.min_ns = 0
        self.seconds = 0.0
        self.counts: list[int] = []
        self.spans: list[float] = []
        self.medians_ns: list[float] = []
        self.late = Thinned(limit // 8)

    def __len__(self) -> int:
        return len(self.counts)

    def add(self, block: Block) -> None:
        """Add a round."""
        low = int(block.ns.min())
        self.min_ns = min(low, self.min_ns) if self.n else low
        self.n += len(block.ns)
        self.total_ns += int(block.ns.sum())
        self._ns.add(block.ns)
        self._round.add(np.full(len(block.ns), len(self.counts), dtype=np.int32))
        self.counts.append(len(block.ns))
        self.spans.append(max(block.seconds, 1e-9))
        self.seconds += self.spans[-1]
        self.medians_ns.append(float(np.median(block.ns)))
        self.asked += len(block.ns) + block.unserved
        if self._deadline_ns is not None:
            self.misses += int(np.count_nonzero(block.ns > self._deadline_ns)) + block.unserved
        self.busy_ns += block.busy_ns
        self.offered_ns += block.offered_ns
        self.late.add(block.late_ns)

    @property
    def stride(self) -> int:
        """Of how many inferences one is kept."""
        return self._ns.stride

    @property
    def ns(self) -> Nanoseconds:
        """Latencies that are kept, in order: shape (kept,), int64."""
        return np.asarray(self._ns.values(np.int64))

    @property
    def rounds(self) -> npt.NDArray[np.int32]:
        """The round of each that is kept: shape (kept,), int32."""
        return np.asarray(self._round.values(np.int32))


def merged(blocks: list[Block]) -> Block:
    """Put blocks that follow each other together."""

    def total(name: str) -> Any:
        return sum(_each(blocks, name))

    return Block(
        ns=np.concatenate(list(_each(blocks, "ns"))),
        seconds=total("seconds"),
        late_ns=np.concatenate(list(_each(blocks, "late_ns"))),
        busy_ns=total("busy_ns"),
        offered_ns=total("offered_ns"),
        unserved=total("unserved"),
    )


def _each(blocks: list[Block], name: str) -> Iterator[Any]:
    return (getattr(block, name) for block in blocks)
