"""Start the supervisor, or, as its child, the worker."""

import sys
import zipfile


def main(arguments: list[str] | None = None) -> int:
    """Run the agent; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["worker"]:
        from edgekit.bench.agent.worker import main as work

        work(arguments[1:])
    from edgekit.bench.agent.supervisor import main as supervise

    here = sys.argv[0]
    return supervise([here] if zipfile.is_zipfile(here) else ["-m", "edgekit.bench.agent"])


if __name__ == "__main__":
    sys.exit(main())
