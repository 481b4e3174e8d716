"""Which extra installs which library: a missing one is told by the command that mends it."""

from edgekit.errors import UnavailableError

EXTRA_OF = {
    "torch": "torch",
    "nncf": "torch",
    "onnxscript": "torch",
    "onnx_ir": "torch",
    "onnxslim": "torch",
    "safetensors": "torch",
    "accelerate": "train",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "openvino": "openvino",
    "pynvml": "nvml",
    "jinja2": "report",
    "PIL": "images",
}


def command(module: str) -> str:
    """The command that installs a library."""
    return f'pip install "edgekit[{EXTRA_OF[module]}]"'


def missing(error: ModuleNotFoundError) -> UnavailableError | None:
    """Say how to get a library that edgekit knows; None for one of the user's own."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRA_OF:
        return None
    return UnavailableError(f"This needs {name}, which is not installed.", command(name))
