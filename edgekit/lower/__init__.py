"""Lowering: from a captured program to ONNX, and from ONNX to an engine.

ONNX Runtime from 1.29 on sends telemetry from the moment it is imported, and keeps a device id in
the home folder. It looks at this variable once, before anything else; edgekit promises neither.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ORT_TELEMETRY_DISABLED", "1")  # its name in some versions
