"""A sustained run: each subject alone for minutes, and how it changed as the device heated up.

Two models side by side heat the device together and would hide which of them throttles, so there
are no rounds here. Between subjects the device idles, and the conditions at each stretch's end show
whether it had cooled down.
"""

import math
from collections.abc import Sequence

import numpy as np

from edgekit.bench import conditions
from edgekit.bench.load import Block, run_block
from edgekit.bench.measure import Check, Loaded, Say, collection_off
from edgekit.bench.protocol import Clock, Protocol
from edgekit.bench.result import Stretch
from edgekit.bench.tally import merged

STRETCHES = 60
PAUSE_S = 0.5


def measure_sustained(
    loaded: Sequence[Loaded], protocol: Protocol, clock: Clock, say: Say, check: Check
) -> bool:
    """Run each subject alone for `protocol.sustained_s`, in stretches.

    Args:
        loaded: the subjects, warm; get their tallies and series.
        protocol: `sustained_s`, `block_s`, `idle_s` and the mode are used.
        clock: time.
        say: progress.
        check: raises KeyboardInterrupt where the run shall end. So does Ctrl-C; stretches that were
            measured before it are kept.

    Returns:
        False where the run was stopped.
    """
    try:
        for place, each in enumerate(loaded):
            if place:
                _idle(protocol.idle_s, clock, check)
            _sustain(each, protocol, clock, _part(say, place, len(loaded)), check)
    except KeyboardInterrupt:
        if not any(each.series for each in loaded):
            raise
        return False
    return True


def _sustain(each: Loaded, protocol: Protocol, clock: Clock, say: Say, check: Check) -> None:
    total_s = protocol.sustained_s or 0.0
    count = max(1, min(STRETCHES, math.floor(total_s / protocol.block_s)))
    began = clock.ns()
    number = 0
    for stretch in range(count):
        start_s = (clock.ns() - began) / 1e9
        blocks: list[Block] = []
        while not blocks or clock.ns() - began < total_s * (stretch + 1) / count * 1e9:
            check()
            with collection_off():
                blocks.append(
                    run_block(each.runs, protocol, clock, settle=number == 0, number=number)
                )
            number += 1
            passed_s = (clock.ns() - began) / 1e9
            say(min(1.0, passed_s / total_s), f"{each.subject.name}: {passed_s:.0f} s")
        whole = merged(blocks)
        each.tally.add(whole)
        each.series.append(
            Stretch(
                start_s=start_s,
                p50_ms=float(np.median(whole.ns)) / 1e6,
                n=len(whole.ns),
                conditions=conditions.snapshot(),
            )
        )


def _idle(seconds: float, clock: Clock, check: Check) -> None:
    end = clock.ns() + seconds * 1e9
    while (left := (end - clock.ns()) / 1e9) > 0:
        check()
        clock.sleep(min(PAUSE_S, left))


def _part(say: Say, place: int, count: int) -> Say:
    return lambda done, text: say(0.3 + 0.65 * (place + done) / count, text)
