"""What to type on the device to get what it lacks, for the very Python that the agent runs in."""

import shlex
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

PACKAGES = {
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "torch-eager": "torch",
    "torch-compiled": "torch",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}


def install_hint(names: Sequence[str], stdlib: Path | None = None) -> str:
    """Return the command that installs modules or runtimes on this device, as a sentence.

    Where the system's own tools manage this Python (PEP 668), pip would refuse: then it says how to
    make a virtual environment, and how to name it.

    Args:
        names: of modules or runtimes; NumPy is added, since every runtime needs it.
        stdlib: folder of the standard library, where the mark of PEP 668 lies.
    """
    packages = list(dict.fromkeys(["numpy", *(PACKAGES.get(name, name) for name in names)]))
    wanted = " ".join(packages)
    python = sys.executable or "python3"
    folder = stdlib or Path(sysconfig.get_path("stdlib"))
    if sys.prefix == sys.base_prefix and (folder / "EXTERNALLY-MANAGED").is_file():
        return (
            "Its system manages this Python, so make an environment on the device:"
            f" `{shlex.quote(python)} -m venv ~/edgekit-venv &&"
            f" ~/edgekit-venv/bin/python -m pip install {wanted}`,"
            " and name it with `--python ~/edgekit-venv/bin/python`."
        )
    return f"On the device: `{shlex.quote(python)} -m pip install {wanted}`."
