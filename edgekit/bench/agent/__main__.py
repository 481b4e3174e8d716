"""Start the supervisor, or, as its child, the worker."""

import sys
import zipfile


def main(arguments: list[str] | None = None) -> int:
    """Run the agent; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["worker"]:
        from edgekit.bench.agent import worker

        return worker.main(arguments[1:])
    from edgekit.bench.agent import supervisor

    here = sys.argv[0]
    return supervisor.main([here] if zipfile.is_zipfile(here) else ["-m", "edgekit.bench.agent"])


if __name__ == "__main__":
    sys.exit(main())
