"""The user's own devices: which there are, how they are reached, and measuring on them."""

from edgekit.device.api import Many, bench, bench_many, probe
from edgekit.device.engines import build, builder
from edgekit.device.outputs import infer
from edgekit.device.registry import Device, add, check, devices, get, remove
from edgekit.device.session import Session
from edgekit.device.talk import Hello

__all__ = [
    "Device",
    "Hello",
    "Many",
    "Session",
    "add",
    "bench",
    "bench_many",
    "build",
    "builder",
    "check",
    "devices",
    "get",
    "infer",
    "probe",
    "remove",
]
