"""Ctrl-C while TensorRT works: its library swallows what a callback raises, and would go on.

Python runs a signal's handler at the next Python code, which inside a build is the logger: TensorRT
catches the exception there, prints it, and finishes. So the signal is only noted meanwhile; the
builder is asked to stop at its next step, and the exception is raised when it has returned.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held(trt: Any, config: Any = None) -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, and end a build early for it.

    Args:
        trt: the library.
        config: of the builder, where the block builds.

    Raises:
        KeyboardInterrupt: it was pressed in the block, whatever the block did then.
    """
    usual = signal.default_int_handler
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not usual
    ):
        yield
        return
    pressed = threading.Event()
    if config is not None:
        config.progress_monitor = _monitor(trt, pressed)
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if pressed.is_set():
            raise KeyboardInterrupt


def _monitor(trt: Any, pressed: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """TensorRT wants all three."""

        def step_complete(self, name: str, step: int) -> bool:
            del name, step
            return not pressed.is_set()

        def phase_finish(self, name: str) -> None:
            """TensorRT wants all three."""

    return Monitor()
