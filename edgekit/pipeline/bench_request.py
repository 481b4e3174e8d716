"""What a user wants measured, and how: the choices, and the protocol that follows from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekit import target as targets
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.bench import Protocol
    from edgekit.bench.protocol import Kind, Mode

RATED = frozenset({"paced", "server"})
STREAMED = frozenset({"streams", "server"})


@dataclass(frozen=True)
class BenchRequest:
    """What is to be measured, and how. What is None follows from the target, or has a default.

    Attributes:
        models: artifact folders or model files; the first is the one others are compared with.
        target: a target's name; gives runtime, threads and meters.
        runtime: what runs the models; inferred from each file where None.
        providers: ONNX Runtime's execution providers, `cuda` for `CUDAExecutionProvider`.
        threads: CPU threads of the runtime.
        settings: other options of the runtimes; each goes to those that have it.
        affinity: CPUs to run on.
        mode: how inferences are asked for; inferred from `rate_hz` and `streams` where None.
        rate_hz: frames, or mean arrivals, a second.
        deadline_ms: the latest answer, after its scheduled time.
        streams: concurrent inferences.
        sustained_s: length of a sustained run in seconds.
        quick: the short protocol.
        inputs: a `.npz` with one array for each input.
        recipe: a recipe whose evaluation data gives the inputs.
        batch: size of dynamic batch dimensions.
        dims: sizes of other dynamic dimensions.
        shapes: whole shapes by input name.
        meters: energy meters to try, best first; None takes the target's.
        layers: time each layer, in a separate pass.
        roofline: measure the device's limits, and say which share each model reaches.
        cuda_graph: run TensorRT engines as recorded CUDA graphs.
        power_mode: set the device's power mode, and put it back afterwards.
        seed: of the inputs, the order of blocks and the bootstrap.
        imports: modules that register the custom operators of a `.pt2`.
        same_twice: the same file may be named twice, to compare it with itself.
    """

    models: tuple[Path, ...]
    target: str | None = None
    runtime: str | None = None
    providers: tuple[str, ...] = ()
    threads: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    affinity: tuple[int, ...] = ()
    mode: str | None = None
    rate_hz: float | None = None
    deadline_ms: float | None = None
    streams: int | None = None
    sustained_s: float | None = None
    quick: bool = False
    inputs: Path | None = None
    recipe: Path | None = None
    batch: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    meters: tuple[str, ...] | None = None
    layers: bool = False
    roofline: bool = False
    cuda_graph: bool = False
    power_mode: str | None = None
    seed: int = 0
    imports: tuple[str, ...] = ()
    same_twice: bool = False

    def check(self) -> None:
        """Refuse choices that contradict each other, before a model is opened.

        Raises:
            UsageError: names the option.
            RecipeError: there is no such target.
        """
        if not self.models:
            raise UsageError("There is nothing to measure.", "Give at least one model.")
        if self.inputs is not None and self.recipe is not None:
            raise UsageError("--inputs and --recipe were both given.", "Give one of them.")
        if self.shapes and (self.inputs is not None or self.recipe is not None):
            raise UsageError(
                "--shape does not go with --inputs or --recipe: these have shapes.",
                "Leave --shape out.",
            )
        resolved = [path.resolve() for path in self.models]
        for path, place in zip(self.models, resolved, strict=True):
            if resolved.count(place) > 1 and not self.same_twice:
                raise UsageError(
                    f"{path} is given twice.",
                    "`edgekit compare A A` shows what identical models differ by.",
                )
        self.protocol_mode()
        self.loaded_target()
        if self.runtime is not None:
            from edgekit.pipeline.runtimes import check_name

            check_name(self.runtime)
        if self.meters:
            from edgekit.bench.meters import check_meter

            for meter in self.meters:
                check_meter(meter)

    def loaded_target(self) -> targets.Target | None:
        """The target, None without one."""
        return targets.load(self.target) if self.target is not None else None

    def protocol_mode(self) -> "Mode":
        """How inferences are asked for.

        Raises:
            UsageError: the mode is unknown, lacks its rate, or was given what it has no use for.
        """
        from edgekit.bench.protocol import KINDS, Mode

        kind = self.mode or self._implied_mode()
        if kind not in KINDS:
            raise UsageError(f"There is no mode {kind!r}.", nearest(kind, KINDS, "Modes"))
        if kind in RATED and self.rate_hz is None:
            what = "frames" if kind == "paced" else "requests"
            raise UsageError(
                f"--mode {kind} needs a rate, in {what} a second.",
                "Give --rate 30 for video, --rate 90 for AR and VR.",
            )
        for option, given, kinds in (
            ("--rate", self.rate_hz, RATED),
            ("--deadline", self.deadline_ms, RATED),
            ("--streams", self.streams, STREAMED),
        ):
            if given is not None and kind not in kinds:
                raise UsageError(
                    f"{option} means nothing in the mode {kind}.",
                    f"It belongs to {' and '.join(f'--mode {k}' for k in sorted(kinds))}.",
                )
        streams = self.streams if self.streams is not None else 2 if kind == "streams" else 1
        return Mode(
            kind=cast("Kind", kind),
            rate_hz=self.rate_hz,
            deadline_ms=self.deadline_ms,
            streams=streams,
        )

    def _implied_mode(self) -> str:
        if self.rate_hz is not None or self.deadline_ms is not None:
            return "paced"
        return "streams" if self.streams is not None else "back-to-back"

    def protocol(self) -> "Protocol":
        """The protocol of the run."""
        from edgekit.bench import Protocol

        form = Protocol.quick(self.seed) if self.quick else Protocol.full(self.seed)
        return dataclasses.replace(
            form,
            mode=self.protocol_mode(),
            sustained_s=self.sustained_s,
            affinity=self.affinity or None,
        )

    def wanted_meters(self) -> tuple[str, ...]:
        """Meters to try: those asked for, else the target's."""
        target = self.loaded_target()
        return self.meters if self.meters is not None else target.meters if target else ()

    def for_device(self, target: str | None, meters: Sequence[str]) -> "BenchRequest":
        """The same, with what a device that the user added says of itself as defaults."""
        found = self
        if self.target is None and target is not None:
            found = dataclasses.replace(found, target=target)
        if self.meters is None and meters:
            found = dataclasses.replace(found, meters=tuple(meters))
        return found


def nearest(name: str, known: Sequence[str], what: str) -> str:
    """A hint that names the nearest of the known names, and all of them."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"{guess}{what}: {', '.join(known)}."
