"""Measure latency and energy on this machine: stdlib, NumPy and the runtime, nothing else.

Of edgekit, this package imports the errors alone, so that it can travel to a device by itself.
"""

from edgekit.bench.api import bench, model_inputs
from edgekit.bench.feeds import random_feeds
from edgekit.bench.measure import Subject
from edgekit.bench.protocol import Mode, Protocol
from edgekit.bench.result import BenchResult, Comparison, Energy, Figure, SubjectResult, load_raw

__all__ = [
    "BenchResult",
    "Comparison",
    "Energy",
    "Figure",
    "Mode",
    "Protocol",
    "Subject",
    "SubjectResult",
    "bench",
    "load_raw",
    "model_inputs",
    "random_feeds",
]
