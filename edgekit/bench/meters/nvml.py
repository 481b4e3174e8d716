"""NVML: the total-energy counter of NVIDIA GPUs since Volta, in millijoules."""

from types import ModuleType, TracebackType
from typing import Any

from edgekit.bench.meters.counter import CounterMeter, Ticks
from edgekit.bench.protocol import Clock
from edgekit.bench.runtimes.base import Availability
from edgekit.bench.runtimes.cuda import driver_fix
from edgekit.errors import UnavailableError


class Nvml(CounterMeter):
    """Energy of one GPU or of all; each is a domain `gpu0`, `gpu1`.

    Args:
        indices: GPUs to read, all where None.
        clock: time.
    """

    def __init__(self, indices: tuple[int, ...] | None = None, clock: Clock | None = None) -> None:
        self._indices = indices
        self._library: Any = None
        self._handles: dict[str, Any] = {}
        # The counter starts at 0 with the driver and does not wrap; a step back is a new driver.
        super().__init__(
            "nvml", self._read, ranges={}, joules_per_tick=1e-3, primary=(), clock=clock
        )

    def probe(self) -> Availability:
        """Say whether module, driver, GPU and counter are there."""
        try:
            self._open()
            self._read()
            return Availability(ok=True, reason=f"NVML energy of {', '.join(self._handles)}.")
        except UnavailableError as e:
            return Availability(ok=False, reason=e.message, fix=e.hint)
        finally:
            self._close()

    def __enter__(self) -> "Nvml":
        """Open the library and measure the counter's period."""
        try:
            self._open()
            self.primary = tuple(self._handles)
            self.period_s = self.measure_period()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the library."""
        self._close()

    def _open(self) -> None:
        library = _import()
        try:
            library.nvmlInit()
        except library.NVMLError as e:
            raise UnavailableError(f"NVML: {e}.", driver_fix()) from e
        self._library = library
        try:
            present = range(library.nvmlDeviceGetCount())
            for index in present if self._indices is None else self._indices:
                self._handles[f"gpu{index}"] = library.nvmlDeviceGetHandleByIndex(index)
        except library.NVMLError as e:
            raise UnavailableError(f"NVML: {e}.", "Check the GPU's index.") from e
        if not self._handles:
            raise UnavailableError("NVML finds no GPU.", "Attach an NVIDIA GPU.")

    def _close(self) -> None:
        if self._library is not None:
            self._library.nvmlShutdown()
        self._library, self._handles = None, {}

    def _read(self) -> Ticks:
        library = self._library
        try:
            return {
                name: int(library.nvmlDeviceGetTotalEnergyConsumption(handle))
                for name, handle in self._handles.items()
            }
        except library.NVMLError_NotSupported as e:
            raise UnavailableError(
                "NVML is here, but this GPU has no energy counter.",
                "GPUs before Volta have none, and Jetson has its own sensors: use ina3221 there.",
            ) from e
        except library.NVMLError as e:
            raise UnavailableError(f"NVML: {e}.", "Check the driver.") from e


def _import() -> ModuleType:
    try:
        import pynvml
    except ImportError as e:
        raise UnavailableError(
            "NVML needs the package nvidia-ml-py.", 'pip install "edgekit[nvml]"'
        ) from e
    return pynvml  # type: ignore[no-any-return]
