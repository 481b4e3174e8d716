"""edgekit: compress trained networks for edge devices, and prove what it cost."""

__version__ = "0.1.0"
