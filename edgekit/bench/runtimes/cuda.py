"""The few calls of CUDA's driver that running an engine needs, by ctypes.

The driver (`libcuda.so.1`) is there wherever a GPU can be used at all, so no CUDA package has to be
installed beside TensorRT. Names and signatures: CUDA Driver API reference.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.runtimes.base import Array
from edgekit.errors import UnavailableError

DRIVER = "libcuda.so.1"
STREAM_NON_BLOCKING = 1
CAPTURE_THREAD_LOCAL = 1
_DRIVER_COMMANDS = {  # from the distributions' own pages; the first that fits counts
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt install nvidia-driver (its component non-free enabled)",
    "arch": "sudo pacman -S nvidia",
    "opensuse": "sudo zypper install nvidia-open",
}


class Cuda:
    """One GPU's primary context, and one stream in it.

    Args:
        device: index of the GPU.
    """

    def __init__(self, device: int = 0) -> None:
        self._library = load_driver()
        self._device = ctypes.c_int()
        self._context = ctypes.c_void_p()
        self._stream = ctypes.c_void_p()
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._events: list[ctypes.c_void_p] = []
        self._graph = ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.make_current()
        self._call("cuStreamCreate", ctypes.byref(self._stream), STREAM_NON_BLOCKING)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.value or 0)

    def make_current(self) -> None:
        """Let the calling thread use this GPU: a context belongs to a thread."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU, freed by `close`; returns the address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        self._memory.append(address.value)
        return address.value

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array in page-locked host memory, which copies reach without a detour.

        It is freed by `close`, and must not be used after that.
        """
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        self._pinned.append(int(address.value or 0))
        memory = (ctypes.c_char * size).from_address(int(address.value or 0))
        return np.ndarray(shape, dtype=dtype, buffer=memory)  # type: ignore[arg-type]

    def upload(self, address: int, array: Array) -> None:
        """Enqueue a copy of a contiguous array to the GPU."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            self._stream,
        )

    def download(self, array: Array, address: int) -> None:
        """Enqueue a copy from the GPU into a contiguous array."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            self._stream,
        )

    def synchronize(self) -> None:
        """Wait until the stream has nothing left to do."""
        self._call("cuStreamSynchronize", self._stream)

    def events(self, count: int) -> list[ctypes.c_void_p]:
        """Make events to record, destroyed by `close`."""
        made = [ctypes.c_void_p() for _ in range(count)]
        for event in made:
            self._call("cuEventCreate", ctypes.byref(event), 0)
            self._events.append(event)
        return made

    def record(self, event: ctypes.c_void_p) -> None:
        """Enqueue an event: the GPU notes the time when it comes to it."""
        self._call("cuEventRecord", event, self._stream)

    def elapsed_ms(self, start: ctypes.c_void_p, end: ctypes.c_void_p) -> float:
        """Milliseconds of the GPU's clock between two events that have both been reached."""
        elapsed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), start, end)
        return float(elapsed.value)

    def capture(self, enqueue: Callable[[], None]) -> None:
        """Record what a call enqueues as a CUDA graph, for `launch`.

        Raises:
            UnavailableError: something that was enqueued cannot be captured.
        """
        graph = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call(
            "cuGraphInstantiateWithFlags", ctypes.byref(self._graph), graph, ctypes.c_uint64(0)
        )
        self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Enqueue the captured graph."""
        self._call("cuGraphLaunch", self._graph, self._stream)

    def close(self) -> None:
        """Free memory, events, stream and context."""
        library = self._library
        if self._graph:
            library.cuGraphExecDestroy(self._graph)
        for event in self._events:
            library.cuEventDestroy_v2(event)
        for address in self._memory:
            library.cuMemFree_v2(ctypes.c_uint64(address))
        for address in self._pinned:
            library.cuMemFreeHost(ctypes.c_void_p(address))
        for each in (self._events, self._memory, self._pinned):
            each.clear()
        library.cuStreamDestroy_v2(self._stream)
        library.cuDevicePrimaryCtxRelease_v2(self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        _check(self._library, name, getattr(self._library, name)(*arguments))


def load_driver() -> ctypes.CDLL:
    """Load and initialise the driver, and see that it has a GPU.

    Raises:
        UnavailableError: says whether the driver or the GPU is missing.
    """
    try:
        library = ctypes.CDLL(DRIVER)
    except OSError as e:
        raise UnavailableError(
            f"NVIDIA's driver is missing ({DRIVER} cannot be loaded).",
            driver_fix(),
        ) from e
    _check(library, "cuInit", library.cuInit(0))
    count = ctypes.c_int()
    _check(library, "cuDeviceGetCount", library.cuDeviceGetCount(ctypes.byref(count)))
    if count.value < 1:
        raise UnavailableError("The driver finds no GPU.", "Attach a GPU that it can see.")
    return library


def driver_fix(release: Path = Path("/etc/os-release")) -> str:
    """The command that installs NVIDIA's driver here.

    Args:
        release: says which distribution this is.
    """
    try:
        lines = release.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    known = {said.get("ID", "").strip('"'), *said.get("ID_LIKE", "").strip('"').split()}
    command = next((c for name, c in _DRIVER_COMMANDS.items() if name in known), "")
    how = f"Install NVIDIA's driver: {command}" if command else "Install NVIDIA's driver"
    return f"{how}; in a container, pass the GPU through (docker run --gpus all)."


def devices() -> list[str]:
    """The name and compute capability of every GPU here; none where there is no driver."""
    try:
        library = load_driver()
    except UnavailableError:
        return []
    count = ctypes.c_int()
    _check(library, "cuDeviceGetCount", library.cuDeviceGetCount(ctypes.byref(count)))
    return [device_name(place) for place in range(count.value)]


def device_name(device: int = 0) -> str:
    """Return the GPU's name and compute capability, such as `NVIDIA Orin (8.7)`.

    Raises:
        UnavailableError: there is no driver or no such GPU.
    """
    library = load_driver()
    handle, text = ctypes.c_int(), ctypes.create_string_buffer(256)
    _check(library, "cuDeviceGet", library.cuDeviceGet(ctypes.byref(handle), device))
    _check(library, "cuDeviceGetName", library.cuDeviceGetName(text, 256, handle))
    numbers = []
    for attribute in (75, 76):  # COMPUTE_CAPABILITY_MAJOR, _MINOR
        value = ctypes.c_int()
        result = library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        _check(library, "cuDeviceGetAttribute", result)
        numbers.append(str(value.value))
    return f"{text.value.decode(errors='replace')} ({'.'.join(numbers)})"


def _check(library: ctypes.CDLL, name: str, result: int) -> None:
    if result == 0:
        return
    text = ctypes.c_char_p()
    library.cuGetErrorString(result, ctypes.byref(text))
    why = text.value.decode(errors="replace") if text.value else "unknown error"
    raise UnavailableError(
        f"CUDA's driver fails in {name}: {why} (error {result}).",
        "Check the GPU and its driver with nvidia-smi.",
    )
