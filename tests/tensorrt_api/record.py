"""Write `recorded.json`: what the real Python modules of TensorRT 10 and 11 offer.

    python -m tests.tensorrt_api.record build/tensorrt-api      (make tensorrt-api)

The module of a release (`tensorrt-*-bindings`, 1 MB) is on PyPI; the libraries that it is linked
with are not, and would want a GPU. So it is loaded beside libraries that hold the names it links
with and nothing behind them: it can say what it offers, and can do none of it. Needs gcc, nm and
CPython 3.11 on x86-64 Linux.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

WHEELS = {
    "10.3.0": "tensorrt-cu12-bindings",  # JetPack 6.1
    "10.13.0.35": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.0.0.114": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
RECORDED = Path(__file__).with_name("recorded.json")
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")


def fetch(version: str, work: Path) -> Path:
    """Download and unpack the module of a release."""
    folder = work / version
    if not folder.exists():
        package = f"{WHEELS[version]}=={version}"
        command = ["pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(work)]
        subprocess.run([sys.executable, "-m", *command, package], check=True)
        stem = f"{WHEELS[version].replace('-', '_')}-{version}-"
        (wheel,) = work.glob(f"{stem}*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def make_empty_libraries(folder: Path, major: str) -> Path:
    """Libraries of the right names whose functions end the program."""
    module = folder / "tensorrt_bindings" / "tensorrt.so"
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(module)], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    names = [line.split()[1] for line in listed if line.split()[:1] == ["U"]]
    wanted = [name for name in names if "@" not in name and not name.startswith(("_", "Py"))]
    source, out = folder / "empty.c", folder / "empty"
    out.mkdir(exist_ok=True)
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in wanted))
    for name in LIBRARIES:
        file = f"lib{name}.so.{major}"
        soname = f"-Wl,-soname,{file}"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", soname, str(source), "-o", str(out / file)],
            check=True,
        )
    return out


def offered(version: str, work: Path) -> dict[str, object]:
    """What a release's module offers, asked in a process of its own."""
    folder = fetch(version, work)
    libraries = make_empty_libraries(folder, version.partition(".")[0])
    root = Path(__file__).parents[2]
    program = (
        "import json, tensorrt_bindings\n"
        "from tests.tensorrt_api.read import read\n"
        "print(json.dumps([tensorrt_bindings.__version__, read(tensorrt_bindings)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(libraries),
            "PYTHONPATH": f"{folder}{os.pathsep}{root}",
        },
    )
    said, api = json.loads(done.stdout)
    if said != version:
        raise SystemExit(f"The module of {version} says that it is {said}.")
    return dict(api)


def main() -> None:
    """Record every release."""
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    found = {version: offered(version, work) for version in WHEELS}
    rows = []
    for version, api in found.items():
        classes = [f"  {json.dumps(name)}: {json.dumps(api[name])}" for name in api]
        rows.append(f"{json.dumps(version)}: {{\n" + ",\n".join(classes) + "\n }")
    RECORDED.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
