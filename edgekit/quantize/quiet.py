"""Keeping the quantizers of other libraries from talking over edgekit's own messages."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(logger: str | None) -> Iterator[None]:
    """Hold back a library's advice: its logger below errors, its warnings, and its stdout.

    Args:
        logger: the logger that it speaks on; None for the root logger.
    """
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
