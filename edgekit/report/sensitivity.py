"""The figure of `edgekit sensitivity`: a bar for each layer, the most sensitive at the top."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 640, 22, 220, 70, 30
_LONGEST = 32
_QUIET_DB = 80.0  # beyond this a bar has no length


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of each layer's noise: the longer the bar, the more int8 hurts.

    Args:
        rows: with `layer` and `sqnr_db` (decibels, None where the outputs stay equal).
    """
    height = _TOP + _ROW * len(rows) + 10
    room = _WIDTH - _LEFT - _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        '<text x="8" y="18" font-weight="bold">Output SQNR with one layer in int8, dB</text>',
    ]
    for place, row in enumerate(rows):
        sqnr, y = row["sqnr_db"], _TOP + _ROW * place
        share = 0.0 if sqnr is None else min(max(1 - sqnr / _QUIET_DB, 0.0), 1.0)
        name = str(row["layer"])
        name = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
        said = "equal" if sqnr is None else f"{sqnr:.1f}"
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y + 3}" width="{share * room:.1f}" height="{_ROW - 8}" '
            'fill="#3b6ea5"/>',
            f'<text x="{_LEFT + share * room + 6:.1f}" y="{y + 14}">{said}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
