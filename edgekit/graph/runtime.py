"""Captured programs under the benchmark: torch as it is, and torch compiled.

The parent of a compressed model is measured by what its author runs it with. The adapters stand
here and not beside the other runtimes, since only the graph's loader opens a `.pt2` safely, and the
benchmark imports nothing of edgekit, so that it travels to a device. So they run on this machine.
"""

import functools
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekit.bench.measure import Opener, Subject, collection_off, open_runtime
from edgekit.bench.profile import WARM_RUNS, Layer, middle_mean, repeat
from edgekit.bench.protocol import SystemClock
from edgekit.bench.runtimes import Availability, Feeds, IoSpec, Runtime, check_feeds
from edgekit.bench.runtimes.base import Array, with_defaults
from edgekit.errors import UnavailableError, UsageError
from edgekit.graph.program import Program, module_path
from edgekit.graph.quiet import quiet
from edgekit.graph.store import load

DEFAULTS: Mapping[str, Any] = {"threads": 1}


class Torch:
    """A `.pt2` file in torch on the CPU, operator by operator.

    Args:
        model: the `.pt2` file.
        options: any of `threads`: threads inside an operator (default 1).
        imports: modules that register the file's custom operators.
    """

    DEFAULTS: Mapping[str, Any] = DEFAULTS
    NAME: ClassVar[str] = "torch"
    COMPILED: ClassVar[bool] = False

    def __init__(
        self, model: Path, options: Mapping[str, Any], *, imports: Sequence[str] = ()
    ) -> None:
        self._model = model
        self._imports = tuple(imports)
        self._threads = (
            int(with_defaults(self.NAME, DEFAULTS, options)["threads"]) or os.cpu_count() or 1
        )
        self._threads_before = 0
        self._module: Callable[..., tuple[Tensor, ...]] | None = None
        self.inputs: tuple[IoSpec, ...] = ()
        self.outputs: tuple[IoSpec, ...] = ()
        self.options: Mapping[str, Any] = {}

    @classmethod
    def probe(cls) -> Availability:
        """Say which torch there is."""
        return Availability(ok=True, reason=f"torch {torch.__version__} (CPU).")

    def __enter__(self) -> "Torch":
        """Load the program and set torch's threads, which are one number for the process."""
        found = self.probe()
        if not found.ok:
            raise UnavailableError(found.reason, found.fix)
        program = load(self._model, self._imports)
        self.inputs = tuple(_spec(spec, self._model) for spec in program.inputs)
        self.outputs = tuple(_spec(spec, self._model) for spec in program.outputs)
        self._module = self._ready(program)
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        self.options = {
            "threads": self._threads,
            "inter_threads": torch.get_num_interop_threads(),
            "compiled": self.COMPILED,
            "device": "cpu",
            "inference_mode": True,
            "onednn": bool(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "version": torch.__version__,
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the program, and put the number of threads back."""
        del kind, error, traceback
        self._module = None
        if self._threads_before:
            torch.set_num_threads(self._threads_before)
            self._threads_before = 0

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; see the protocol."""
        outputs = self._bound(feeds)()
        # A copy, since an output may be an input's memory.
        return {
            spec.name: np.array(value.numpy())
            for spec, value in zip(self.outputs, outputs, strict=True)
        }

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Make tensors of the inputs, without a copy; the returned call is one forward."""
        return self._bound(feeds)

    def synchronize(self) -> None:
        """Nothing to wait for: on the CPU a forward returns when its outputs are there."""

    def timed(self) -> "_Timed":
        """Run the graph node by node from now on, and time each."""
        module = self._call()
        if not isinstance(module, GraphModule):
            raise UsageError(f"{self.NAME} gives no layer times here.", "Use the runtime torch.")
        timed = _Timed(module)
        self._module = timed.run
        return timed

    def _ready(self, program: Program) -> Callable[..., tuple[Tensor, ...]]:
        """What is called with the inputs in order."""
        return program.module()

    def _call(self) -> Callable[..., tuple[Tensor, ...]]:
        """What one binding calls."""
        if self._module is None:
            raise UsageError("The program is not loaded.", "Use the runtime in a with statement.")
        return self._module

    def _bound(self, feeds: Feeds) -> Callable[[], tuple[Tensor, ...]]:
        check_feeds(self.inputs, feeds, self._model)
        module, threads = self._call(), self._threads
        tensors = [torch.from_numpy(_own(feeds[spec.name])) for spec in self.inputs]

        def infer_once() -> tuple[Tensor, ...]:
            if torch.get_num_threads() != threads:  # 0.1 µs; another subject may have set its own
                torch.set_num_threads(threads)
            with torch.inference_mode():
                try:
                    return module(*tensors)
                except Exception as e:
                    raise self._failed(e) from e

        return infer_once

    def _failed(self, error: Exception) -> UsageError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = " ".join(lines[:2])[:300] or type(error).__name__
        return UsageError(
            f"{self.NAME} cannot run {self._model.name}: {what}",
            "Check the model with these input shapes.",
        )


class TorchCompile(Torch):
    """A `.pt2` file compiled by `torch.compile` for the shapes that it is fed.

    The first inference compiles, so that its time counts as the first inference's.
    """

    NAME: ClassVar[str] = "torch-compile"
    COMPILED: ClassVar[bool] = True

    @classmethod
    def probe(cls) -> Availability:
        """Say whether there is a C++ compiler, which torch compiles with on the CPU."""
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            return Availability(
                ok=False,
                reason=f"torch compiles with a C++ compiler, and there is no {compiler!r} here.",
                fix="Install g++ (`apt-get install g++`), or name a compiler in CXX.",
            )
        return Availability(ok=True, reason=f"torch {torch.__version__} (CPU), with {compiler}.")

    def _ready(self, program: Program) -> Callable[..., tuple[Tensor, ...]]:
        # The whole graph or an error: a part left to Python, or shapes that were compiled too often
        # and run uncompiled, would be measured as if they were compiled.
        return torch.compile(program.module(), fullgraph=True, dynamic=False)

    def _call(self) -> Callable[..., tuple[Tensor, ...]]:
        compiled, seen = super()._call(), False

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            nonlocal seen
            if seen:
                return compiled(*tensors)
            seen = True
            with quiet():  # torch warns of its own parts while it compiles
                return compiled(*tensors)

        return call


def profile(
    model: Path,
    feeds: Feeds,
    options: Mapping[str, Any],
    imports: Sequence[str] = (),
    seconds: float = 1.0,
) -> list[Layer]:
    """Time of each operator of a `.pt2` in eager torch, in the names of the user's modules.

    The graph is run node by node with a clock around each. That costs a few microseconds a node, so
    small operators look slower than they are.

    Args:
        model: the `.pt2` file.
        feeds: one array for each input.
        options: of the runtime `torch`.
        imports: modules that register the file's custom operators.
        seconds: time to spend, within 6 and 205 inferences.

    Returns:
        The operators in the order in which they run; `nodes` holds the module's path, or the
        operator's name where the outermost module calls it.

    Raises:
        UsageError: the file cannot be loaded or run, or the feeds do not fit.
    """
    with Torch(model, options, imports=imports) as runtime, collection_off():
        timed = runtime.timed()
        repeat(runtime.bind(feeds), seconds, SystemClock())
    counted = {node: times[WARM_RUNS:] for node, times in timed.times_ns.items()}
    means = {node: middle_mean(np.array(times)) / 1e6 for node, times in counted.items()}
    total = sum(means.values()) or 1.0
    return [
        Layer(
            name=node.name,
            op=str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten."),
            provider="torch",
            ms=ms,
            share=ms / total,
            runs=len(counted[node]),
            nodes=(module_path(node) or node.name,),
        )
        for node, ms in means.items()
    ]


class _Timed(Interpreter):
    """Runs a graph node by node, and keeps the nanoseconds of each operator."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.times_ns: dict[Node, list[int]] = defaultdict(list)

    def run_node(self, n: Node) -> Any:
        """Run one node; only those that compute are timed."""
        if n.op != "call_function":
            return super().run_node(n)
        began = time.perf_counter_ns()
        value = super().run_node(n)
        self.times_ns[n].append(time.perf_counter_ns() - began)
        return value


RUNTIMES: Mapping[str, type[Torch]] = {each.NAME: each for each in (Torch, TorchCompile)}


def torch_opener(imports: Sequence[str] = ()) -> Opener:
    """What opens subjects whose runtime is torch, and all others as the benchmark does.

    Args:
        imports: modules that register the custom operators of the `.pt2` files.
    """
    return functools.partial(_open, imports=tuple(imports))


def _open(subject: Subject, *, imports: Sequence[str]) -> Runtime:
    kind = RUNTIMES.get(subject.runtime)
    if kind is None:
        return open_runtime(subject)
    return kind(subject.model, subject.options, imports=imports)


def _own(array: Array) -> Array:
    """An array that torch may hold: contiguous, and writable, else torch warns that it is not."""
    return np.require(array, requirements=["C", "W"])


def _spec(spec: Any, model: Path) -> IoSpec:
    try:
        dtype = np.dtype(spec.dtype).name
    except TypeError as e:
        raise UsageError(
            f"{spec.name!r} of {model.name} is {spec.dtype}, which NumPy does not have.",
            "Capture the model with float32 inputs and outputs.",
        ) from e
    return IoSpec(spec.name, dtype, spec.shape)
