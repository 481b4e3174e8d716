"""`python -m edgekit`: what launchers such as `torchrun -m edgekit` start."""

from edgekit.cli.app import main

if __name__ == "__main__":
    main()
