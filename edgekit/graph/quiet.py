"""torch's own warnings and log lines, kept to themselves while it captures, reads or writes.

What matters of them reaches the user as an error or as a program's warning.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back third-party warnings and the `torch` loggers."""
    handlers = [handler for logger in _loggers() for handler in logger.handlers]
    for handler in handlers:
        handler.addFilter(_nothing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(_nothing)


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict
    names = [name for name in known if name == "torch" or name.startswith("torch.")]
    return [logger for name in names if isinstance(logger := known[name], logging.Logger)]


def _nothing(record: logging.LogRecord) -> bool:
    del record
    return False
