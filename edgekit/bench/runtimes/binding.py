"""One binding of a TensorRT engine: a context, a stream and memory of its own, ready to run."""

import threading
import time
from typing import Any

import numpy as np

from edgekit.bench.runtimes.base import Array, Feeds, IoSpec
from edgekit.bench.runtimes.cuda import Cuda
from edgekit.errors import UnavailableError, UsageError


class Binding:
    """An inference as a call without arguments.

    Bindings of one engine share its weights and nothing else, so that several may run at once.
    Inputs and outputs lie in page-locked memory.

    Args:
        engine: TensorRT's engine.
        name: of the engine's file, for messages.
        inputs: the engine's inputs.
        outputs: the engine's outputs.
        feeds: one array for each input.
        device: index of the GPU.
        transfers: copy inputs to the GPU and outputs back in every run.
        graph: record a run as a CUDA graph, and launch that.

    Raises:
        UsageError: a shape lies outside the engine's profile, or an output's depends on the data.
        UnavailableError: the GPU's memory does not suffice, or the engine cannot be captured.
    """

    def __init__(
        self,
        engine: Any,
        name: str,
        inputs: tuple[IoSpec, ...],
        outputs: tuple[IoSpec, ...],
        feeds: Feeds,
        *,
        device: int,
        transfers: bool,
        graph: bool,
    ) -> None:
        self._name, self._transfers, self._graph = name, transfers, graph
        self._thread = threading.get_ident()
        self._shapes = {spec.name: feeds[spec.name].shape for spec in inputs}
        self._cuda = Cuda(device)
        self._context: Any = None
        self._uploads: list[tuple[int, Array]] = []
        self._downloads: list[tuple[Array, int]] = []
        self.outputs: dict[str, Array] = {}
        try:
            self._context = _context(engine, name)
            self._uploads += [self._input(spec, feeds[spec.name]) for spec in inputs]
            self.outputs.update({spec.name: self._output(spec) for spec in outputs})
            self._downloads += [
                (array, self._place(each, array)) for each, array in self.outputs.items()
            ]
            self._events = self._cuda.events(4)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def __call__(self) -> None:
        """Run once, and wait for the end."""
        if threading.get_ident() != self._thread:
            self._cuda.make_current()
            self._thread = threading.get_ident()
        if self._graph:
            self._cuda.launch()
        else:
            self._enqueue_all()
        self._cuda.synchronize()

    def takes(self, feeds: Feeds) -> bool:
        """Whether other arrays have the shapes that this binding was made for."""
        return {name: array.shape for name, array in feeds.items()} == self._shapes

    def feed(self, feeds: Feeds) -> None:
        """Take other inputs of the same shapes; runs with transfers bring them to the GPU."""
        for (_, staged), name in zip(self._uploads, self._shapes, strict=True):
            np.copyto(staged, feeds[name])

    def split(self) -> dict[str, float]:
        """Run once, and say where its time went, in milliseconds.

        Returns:
            `enqueue`: the host's time to ask for everything; by events of the GPU: `h2d`, `compute`
            and `d2h`, or with a CUDA graph `graph`, which is all of them. Copies are absent where
            there are none.
        """
        cuda, events = self._cuda, self._events
        began = time.perf_counter_ns()
        cuda.record(events[0])
        if self._graph:
            cuda.launch()
            cuda.record(events[1])
        else:
            self._upload()
            cuda.record(events[1])
            self._execute()
            cuda.record(events[2])
            self._download()
            cuda.record(events[3])
        enqueued = (time.perf_counter_ns() - began) / 1e6
        cuda.synchronize()
        if self._graph:
            return {"enqueue": enqueued, "graph": cuda.elapsed_ms(events[0], events[1])}
        parts = ("h2d", "compute", "d2h") if self._transfers else ("", "compute", "")
        return {
            "enqueue": enqueued,
            **{
                part: cuda.elapsed_ms(events[place], events[place + 1])
                for place, part in enumerate(parts)
                if part
            },
        }

    def read(self) -> dict[str, Array]:
        """Copies of the outputs of the last run, fetched where runs leave them on the GPU."""
        if not self._transfers:
            for array, address in self._downloads:
                self._cuda.download(array, address)
            self._cuda.synchronize()
        return {name: array.copy() for name, array in self.outputs.items()}

    def close(self) -> None:
        """Free everything but the engine."""
        self._context = None
        self.outputs, self._uploads, self._downloads = {}, [], []
        self._cuda.close()

    def _prepare(self) -> None:
        """Bring the inputs to the GPU, run once (the engine sets itself up then), and capture."""
        for address, array in self._uploads:
            self._cuda.upload(address, array)
        if not self._graph:
            self._cuda.synchronize()
            return
        self._enqueue_all()
        self._cuda.synchronize()
        try:
            self._cuda.capture(self._enqueue_all)
        except UnavailableError as e:
            raise UnavailableError(
                f"{self._name} cannot be recorded as a CUDA graph: {e.message}",
                "Measure it without a CUDA graph.",
            ) from e

    def _enqueue_all(self) -> None:
        self._upload()
        self._execute()
        self._download()

    def _upload(self) -> None:
        if self._transfers:
            for address, array in self._uploads:
                self._cuda.upload(address, array)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise UsageError(f"The engine {self._name} failed to run.", "Build it again.")

    def _download(self) -> None:
        if self._transfers:
            for array, address in self._downloads:
                self._cuda.download(array, address)

    def _input(self, spec: IoSpec, array: Array) -> tuple[int, Array]:
        if not self._context.set_input_shape(spec.name, array.shape):
            raise UsageError(
                f"Input {spec.name!r} of {self._name} may not have the shape {list(array.shape)}.",
                "Give a shape inside the profile that the engine was built with.",
            )
        staged = self._cuda.pinned(array.shape, spec.dtype)
        np.copyto(staged, array)
        return self._place(spec.name, staged), staged

    def _output(self, spec: IoSpec) -> Array:
        shape = tuple(self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise UsageError(
                f"The shape of output {spec.name!r} of {self._name} depends on the data.",
                "Such engines cannot be measured yet.",
            )
        return self._cuda.pinned(shape, spec.dtype)

    def _place(self, name: str, array: Array) -> int:
        address = self._cuda.allocate(array.nbytes)
        self._context.set_tensor_address(name, address)
        return address


def _context(engine: Any, name: str) -> Any:
    found = engine.create_execution_context()
    if found is None:
        raise UnavailableError(f"There is not enough GPU memory to run {name}.", "Free some of it.")
    return found
