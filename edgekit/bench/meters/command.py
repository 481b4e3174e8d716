"""Any program that prints watts: a line for each sample, or one number each time it is called.

`command:./watts.sh --channel 2` names it with its arguments. What the figure covers is the
program's affair. The program is started without a shell.
"""

import re
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from itertools import pairwise
from types import TracebackType

import numpy as np

from edgekit.bench.meters.programs import Runner, last_line, run_program
from edgekit.bench.meters.sampled import Sample, SampledMeter, Sampler, Watts, in_thread
from edgekit.bench.protocol import Clock
from edgekit.bench.runtimes.base import Availability
from edgekit.errors import UnavailableError, UsageError

DOMAIN = "command"
FIRST_S = 10.0
CALL_PERIOD_S = 0.25
LEAST_PERIOD_S = 0.05  # lines that come faster are looked at together
LINES_FOR_PERIOD = 5
KEPT = 4096
_WATTS = re.compile(r"^\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*(m?)W?\s*$")


class Command(SampledMeter):
    """Power that a program prints.

    It is started once: where it ends after its first number, it is called again for every sample,
    and where it goes on, each of its lines is a sample.

    Args:
        command: the program and its arguments.
        run: calls the program and gives what it prints.
        clock: time.
        sampler: polls windows in the background; None: the caller does.
    """

    def __init__(
        self,
        command: Sequence[str],
        run: Runner = run_program,
        clock: Clock | None = None,
        *,
        sampler: Sampler | None = in_thread,
    ) -> None:
        self.command, self._run = tuple(command), run
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[tuple[int, float, str]] = deque(maxlen=KEPT)
        self._more = threading.Condition()
        self._ended = False
        super().__init__(
            f"command:{shlex.join(self.command)}",
            self._call,
            primary=(DOMAIN,),
            period_s=CALL_PERIOD_S,
            clock=clock,
            sampler=sampler,
        )

    @classmethod
    def from_argument(cls, text: str) -> "Command":
        """Read what follows `command:`.

        Raises:
            UsageError: there is no program, or a quote is not closed.
        """
        try:
            command = shlex.split(text)
        except ValueError as e:
            raise UsageError(f"The command {text!r} cannot be read: {e}.", "Mind quotes.") from e
        if not command:
            raise UsageError(
                "The meter `command` needs a program.", "Write --meter 'command:PROGRAM ARGUMENTS'."
            )
        return cls(command)

    def probe(self) -> Availability:
        """Say whether the program prints watts. This starts it."""
        try:
            with self:
                how = "lines" if self.holds else "calls"
                every = f"{self.period_s:.2g} s between {how}"
                return Availability(ok=True, reason=f"{self.command[0]} prints watts, {every}.")
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)

    def __enter__(self) -> "Command":
        """Start the program, and see how it gives its figures."""
        try:
            self._start()
            lines = self._first_lines()
        except BaseException:
            self._stop()
            raise
        if self._ended:
            self._stop()
            self.holds = self.collects = False
            self.period_s = CALL_PERIOD_S
            before = self.clock.ns()
            self._call()
            self.period_s = max(CALL_PERIOD_S, 2 * (self.clock.ns() - before) / 1e9)
        else:
            self.holds = self.collects = True
            gaps = [late - early for (_, early, _), (_, late, _) in pairwise(lines)]
            self.period_s = max(LEAST_PERIOD_S, float(np.median(gaps)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the program."""
        self._stop()

    def samples(self, after_s: float) -> list[Sample]:
        """Lines that came after a moment; or one call of a program that ends by itself."""
        if not self.holds:
            return super().samples(after_s)
        with self._more:
            if self._ended:
                raise UnavailableError(
                    f"{self.command[0]} ended while it was needed.", "Let it print on."
                )
            lines = [line for line in self._lines if line[1] > after_s]
        return [(moment, self._parsed(text)) for _, moment, text in lines]

    def mark(self) -> Hashable:
        """The number of the last line."""
        with self._more:
            return (self._lines[-1][0] if self._lines else 0, self._ended)

    def _call(self) -> Watts:
        return self._parsed(self._run(self.command))

    def _parsed(self, text: str) -> Watts:
        return {DOMAIN: watts_of(text, self.command[0])}

    def _start(self) -> None:
        self._lines.clear()
        self._ended = False
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                errors="replace",
                bufsize=1,
            )
        except OSError as e:
            raise UnavailableError(
                f"The program {self.command[0]!r} cannot be started: {e.strerror}.",
                "Install it, or give its path.",
            ) from e
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        stdout = process.stdout
        number = 0
        with suppress(ValueError):  # closed under our hands: the meter is left
            for line in stdout or ():
                if not line.strip():
                    continue
                number += 1
                with self._more:
                    self._lines.append((number, self.clock.ns() / 1e9, line))
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def _first_lines(self) -> list[tuple[int, float, str]]:
        """Wait for some lines, or for the program's end."""
        with self._more:
            self._more.wait_for(
                lambda: self._ended or len(self._lines) >= LINES_FOR_PERIOD, FIRST_S
            )
            lines, ended = list(self._lines), self._ended
        for _, _, text in lines:
            self._parsed(text)
        if not ended and len(lines) < 2:
            raise UnavailableError(
                f"{self.command[0]} printed {len(lines)} lines in {FIRST_S:.0f} s.",
                "It must print watts at least every few seconds, and not hold its lines back"
                " (stdbuf -oL PROGRAM), or print one number and end.",
            )
        return lines

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join(2.0)
        if process.stdout is not None:
            process.stdout.close()


def watts_of(text: str, name: str) -> float:
    """Read what a program printed: one number, in W, or in mW where it says so.

    Raises:
        UnavailableError: it is no number.
    """
    line = last_line(text)
    found = _WATTS.match(line)
    if not found:
        raise UnavailableError(
            f"{name} printed {line!r}, which is no number of watts.",
            "It must print one number on each line, such as 4.21.",
        )
    return float(found[1]) * (1e-3 if found[2] else 1.0)
