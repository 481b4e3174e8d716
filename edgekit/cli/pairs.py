"""Options that give names to values, such as `--shape image=1x3x224x224`."""

import re

from edgekit.errors import UsageError

_SIZES = re.compile(r"[1-9]\d*(x[1-9]\d*)*")


def pairs(texts: list[str] | None, option: str) -> dict[str, str] | None:
    """Read `NAME=VALUE` options.

    Raises:
        UsageError: one is not of that form.
    """
    if not texts:
        return None
    found = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, found, strict=True):
        if not name or not value:
            raise UsageError(f"{option} {text!r} is not NAME=VALUE.", "See the command's --help.")
    return {name: value for name, _, value in found}


def fixed_sizes(texts: list[str] | None, option: str) -> dict[str, list[int]] | None:
    """Read `NAME=1x3x224x224` options.

    Raises:
        UsageError: one is not of that form.
    """
    found = pairs(texts, option)
    if found is None:
        return None
    for name, value in found.items():
        if not _SIZES.fullmatch(value):
            raise UsageError(f"{option} {name}={value} has no sizes.", "Write 1x3x224x224.")
    return {name: [int(part) for part in value.split("x")] for name, value in found.items()}
