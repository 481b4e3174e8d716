"""edgekit: compress trained networks for edge devices, and prove what it cost."""

import os

# ONNX Runtime from 1.29 on sends telemetry from the moment it is imported, and keeps a device id in
# the home folder. It looks at these variables once, before anything else; edgekit promises neither.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ORT_TELEMETRY_DISABLED", "1")  # its name in some versions

__version__ = "0.1.0"
