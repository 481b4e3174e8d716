"""`edgekit targets` and `edgekit doctor`: what edgekit knows, and what this machine has."""

from edgekit.cli import common


def targets(json: common.Json = False) -> None:
    """List the device classes that edgekit knows."""
    from edgekit import target
    from edgekit.cli import show

    found = [target.load(name) for name in target.names()]
    common.print_json([t.model_dump() for t in found]) if json else show.targets(found)


def doctor(json: common.Json = False) -> None:
    """Say what this machine has: libraries, runtimes, meters; what is missing, and the mend."""
    from edgekit.cli import show
    from edgekit.pipeline import examine_machine

    with common.progress():
        found = examine_machine()
    common.print_json(found) if json else show.doctor(found)
