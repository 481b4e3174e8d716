"""The few calls of CUDA's driver that running an engine needs, by ctypes.

The driver (`libcuda.so.1`) is there wherever a GPU can be used at all, so no CUDA package has to be
installed beside TensorRT. Names and signatures: CUDA Driver API reference.
"""

import ctypes
from typing import Any

from edgekit.bench.runtimes.base import Array
from edgekit.errors import UnavailableError

DRIVER = "libcuda.so.1"


class Cuda:
    """One GPU's primary context and one stream in it.

    Args:
        device: index of the GPU.
    """

    def __init__(self, device: int = 0) -> None:
        self._library = load_driver()
        self._device = ctypes.c_int()
        self._context = ctypes.c_void_p()
        self._stream = ctypes.c_void_p()
        self._memory: list[int] = []
        self._call("cuDeviceGet", ctypes.byref(self._device), device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), 0)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.value or 0)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU, freed by `close`; returns the address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        self._memory.append(address.value)
        return address.value

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

    def close(self) -> None:
        """Free memory, stream and context."""
        for address in self._memory:
            self._library.cuMemFree_v2(ctypes.c_uint64(address))
        self._memory.clear()
        self._library.cuStreamDestroy_v2(self._stream)
        self._library.cuDevicePrimaryCtxRelease_v2(self._device)

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
            "Install NVIDIA's driver; in a container, pass the GPU through.",
        ) from e
    _check(library, "cuInit", library.cuInit(0))
    count = ctypes.c_int()
    _check(library, "cuDeviceGetCount", library.cuDeviceGetCount(ctypes.byref(count)))
    if count.value < 1:
        raise UnavailableError("The driver finds no GPU.", "Attach a GPU that it can see.")
    return library


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
