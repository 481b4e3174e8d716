"""Einstein's notation, spelt out: one letter for each dimension of each operand."""

from collections import Counter
from collections.abc import Sequence

_SPARE = "ZYXWVUTSRQPONMLKJIHGFEDCBA"


def letters(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Spell an equation out.

    An ellipsis becomes letters that are not used elsewhere, aligned from the right; an output that
    is not given holds the ellipsis and then each letter that occurs once, in alphabetical order
    (as in `numpy.einsum`).

    Args:
        equation: such as `bi,oi->bo` or `...i,oi`.
        ranks: number of dimensions of each operand.

    Returns:
        the letters of each operand, and of the output.

    Raises:
        ValueError: operands and equation do not fit each other.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(equation)
    spare = [c for c in _SPARE if c not in equation]
    longest = max(
        [r - len(t) + 3 for t, r in zip(terms, ranks, strict=True) if "..." in t], default=0
    )
    hidden = "".join(spare[:longest])
    spelt = []
    for term, rank in zip(terms, ranks, strict=True):
        width = rank - len(term.replace("...", ""))
        term = term.replace("...", hidden[longest - width :] if width else "")
        if len(term) != rank:
            raise ValueError(equation)
        spelt.append(term)
    if not arrow:
        counted = Counter("".join(left.replace("...", "").replace(",", "")))
        right = "..." + "".join(sorted(c for c, n in counted.items() if n == 1))
    return spelt, right.replace("...", hidden)
