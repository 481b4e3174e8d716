"""Which layer of the student learns from which of the teacher."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from edgekit.errors import UsageError
from edgekit.graph.taps import Feature, features

if TYPE_CHECKING:
    from edgekit.distill.config import LayerPair
    from edgekit.graph.program import Program

Pair = tuple[Feature, Feature]
_SPREAD = 3
_SAME = 0.9
_SHOWN = 5


def pair(
    student: "Program", teacher: "Program", layers: Sequence["str | LayerPair"] = ()
) -> list[Pair]:
    """Pair layers of two networks.

    Args:
        student: the network that learns.
        teacher: the network that answers.
        layers: names or patterns (`layers.*`) of layers that both have, or pairs of names; none:
            edgekit chooses. Networks of the same origin (pruned, say) are then paired by name,
            others by resolution and depth: the last layer of each resolution, or layers at even
            depths where there is but one.

    Returns:
        (student's feature, teacher's feature) in the student's order, each once.

    Raises:
        UsageError: a name or pattern matches nothing; names what is near.
    """
    ours, theirs = features(student), features(teacher)
    if not layers:
        return _chosen(ours, theirs)
    found: dict[Pair, None] = {}
    for entry in layers:
        pairs = (
            _by_pattern(entry, ours, theirs)
            if isinstance(entry, str)
            else [
                (
                    _named(entry.student, ours, "student"),
                    _named(entry.teacher, theirs, "teacher"),
                )
            ]
        )
        found.update(dict.fromkeys(pairs))
    return list(found)


def _by_pattern(pattern: str, ours: dict[str, Feature], theirs: dict[str, Feature]) -> list[Pair]:
    if not any(c in pattern for c in "*?["):
        return [(_named(pattern, ours, "student"), _named(pattern, theirs, "teacher"))]
    names = [name for name in ours if fnmatchcase(name, pattern)]
    if not names:
        raise _nothing(pattern, ours, "student")
    if not any(name in theirs for name in names):
        raise _nothing(pattern, theirs, "teacher")
    return [(ours[name], theirs[name]) for name in names if name in theirs]


def _named(name: str, known: dict[str, Feature], whose: str) -> Feature:
    if name not in known:
        raise _nothing(name, known, whose)
    return known[name]


def _nothing(name: str, known: dict[str, Feature], whose: str) -> UsageError:
    near = difflib.get_close_matches(name, known, n=_SHOWN, cutoff=0.4) or list(known)[:_SHOWN]
    return UsageError(
        f"`layers: {name}` matches no layer of the {whose}.",
        f"Near it: {', '.join(near)}." if near else f"The {whose} has no layers to compare.",
    )


def _chosen(ours: dict[str, Feature], theirs: dict[str, Feature]) -> list[Pair]:
    s, t = _candidates(ours), _candidates(theirs)
    if any(_in_module(f) for f in s) and any(_in_module(f) for f in t):
        s, t = [f for f in s if _in_module(f)], [f for f in t if _in_module(f)]
    if any(f.positions for f in s) and any(f.positions for f in t):
        s, t = [f for f in s if f.positions], [f for f in t if f.positions]
    by_name = {f.name: f for f in t}
    same = [
        (f, by_name[f.name])
        for f in s
        if f.name in by_name and by_name[f.name].positions == f.positions
    ]
    # A pruned network has all of its parent's names; a shallower sibling only the first ones.
    if same and len(same) >= _SAME * max(len(s), len(t)):
        ends = {p[0].positions: p for p in same}
        if len(ends) > 1:
            return list(ends.values())
        return _spread([p[0] for p in same], [p[1] for p in same])
    last_s, last_t = {f.positions: f for f in s}, {f.positions: f for f in t}
    common = [(f, last_t[size]) for size, f in last_s.items() if size in last_t]
    if len(common) > 1:
        return common
    found = _spread(s, t)
    if not found:
        raise UsageError("The networks have no layers inside to compare.", "Leave `features` out.")
    return found


def _candidates(known: dict[str, Feature]) -> list[Feature]:
    """Each tensor once, by its shortest name; without those of one position (pooled)."""
    best: dict[str, Feature] = {}
    for feature in known.values():
        other = best.get(feature.node)
        if other is None or feature.name.count(".") < other.name.count("."):
            best[feature.node] = feature
    return [f for f in best.values() if not f.positions or any(n != 1 for n in f.positions)]


def _in_module(feature: Feature) -> bool:
    """Whether the user's own name is known; the graph's (`add_2`) says nothing of two networks."""
    return feature.name != feature.node


def _spread(s: list[Feature], t: list[Feature]) -> list[Pair]:
    """Pairs at even depths; repeated blocks (`layers.0`, `layers.1`) stand for all they hold."""
    ours, theirs = _blocks(s), _blocks(t)
    count = min(_SPREAD, len(ours), len(theirs))
    ends = [(i + 1) / count for i in range(count)]
    return [
        (ours[round(end * len(ours)) - 1], theirs[round(end * len(theirs)) - 1]) for end in ends
    ]


def _blocks(known: list[Feature]) -> list[Feature]:
    numbered = [f for f in known if f.name.rpartition(".")[2].isdigit()]
    depths = sorted({f.name.count(".") for f in numbered})
    for depth in depths:
        level = [f for f in numbered if f.name.count(".") == depth]
        if len(level) > 1:
            return level
    return known
