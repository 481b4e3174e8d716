"""The ladder: what the guard tries, in order, until a quantized model is accurate and not slower.

A model that is slower than its parent first gives back the layers that int8 does not make faster.
One that is inaccurate is repaired (`edgekit.quantize.repair`): other ranges, SmoothQuant,
equalization; then its worst layers go back to a higher precision, as few as suffice, or are rounded
by AdaRound where giving them back would cost speed. The first one that holds the gate is kept;
where several methods hold it at the start, the fastest. The evaluation split decides what is kept,
so whoever wants an unbiased figure afterwards holds a split back.

The search has a limit. When it is reached, what is being tried is finished; then the fastest model
that holds is kept, or nothing does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.errors import EdgekitError, GateError, PassError
from edgekit.progress import Progress, Silent
from edgekit.quantize import dynamic, equalize, repair, sensitivity
from edgekit.quantize.attempts import Attempt, Kind, Reverted, artifact_of, excluding, table
from edgekit.quantize.config import Method, PtqConfig
from edgekit.quantize.deadline import Deadline, OutOfTimeError
from edgekit.quantize.graph import Graph
from edgekit.quantize.guard import Judge
from edgekit.quantize.methods import suited
from edgekit.quantize.prepare import prepare
from edgekit.quantize.ptq import QuantReport, quantize_onnx

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

Batches = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]
RANKED_ON = 16  # samples on which layers and ranges are ranked


@dataclass
class Ladder:
    """Climbs from one configuration to a model that holds the gate.

    Attributes:
        source: the float32 ONNX file.
        scheme: how integers are written.
        calibration: gives the calibration batches, as often as asked.
        judge: measures what was made.
        config: where to begin.
        folder: an empty folder to work in.
        seed: for the libraries' generators.
        progress: where to show the progress.
        deadline: when the search ends.
        tried: all attempts, in order.
        reverted: of the attempt that was kept.
        stopped: whether the deadline ended the search.
        ranked: by layer, the noise of the outputs without it in int8, as far as it was measured.
    """

    source: Path
    scheme: "IntegerScheme"
    calibration: Batches
    judge: Judge
    config: PtqConfig
    folder: Path
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    deadline: Deadline = field(default_factory=Deadline)
    tried: list[Attempt] = field(default_factory=list)
    reverted: list[Reverted] = field(default_factory=list)
    stopped: bool = False
    ranked: dict[str, float] = field(default_factory=dict)
    _slow: set[str] = field(default_factory=set)
    _gains: dict[Path, dict[str, float] | None] = field(default_factory=dict)

    def climb(self, method: Method) -> Attempt:
        """Find a model that holds the gate.

        Args:
            method: how to quantize; `auto` tries what suits the network.

        Raises:
            GateError: nothing holds it; the message is the table of what was tried.
        """
        try:
            kept = self._search(method)
        except OutOfTimeError:
            self.stopped = True
            kept = max((a for a in self.tried if a.passed), key=speed, default=None)
        if kept is None:
            raise self.failed()
        self.reverted = self.priced(kept)
        return kept

    def _search(self, method: Method) -> Attempt | None:
        starts = [
            self.attempt("as configured", kind, self.config, timed=True)
            for kind in self.kinds(method)
        ]
        if "dynamic" in self.kinds(method) and self.config.per_channel:
            # Small products are faster with one scale for each weight, if that is accurate enough.
            whole = self.config.model_copy(update={"per_channel": False})
            starts.append(self.attempt("one scale for each weight", "dynamic", whole, timed=True))
        held = [a for a in starts if a.passed]
        if held:
            best = max(held, key=speed)
            faster = repair.repaired_faster(self, best, starts)
            return faster or repair.without_the_slow(self, best)
        for start in sorted(starts, key=lambda a: (a.slower, a.loss)):
            found = repair.repaired(self, start) if start.made_any else None
            if found is not None:
                return found
        return None

    def failed(self, why: str = "No int8 form of the model holds the guard's gate.") -> GateError:
        """Nothing holds: what was tried, as a table."""
        more, limit = "", self.deadline.seconds
        if self.stopped and limit is not None:
            why = f"{why} The search was stopped after {limit:g} s."
            more = "Let it search longer with `search_s:` (--search), k"
        return GateError(
            f"{why}\n{table(self.tried)}",
            f"{more or 'K'}eep the float32 model, allow more with `gate:` (--gate), train with "
            "quantization, or take the model as it is with `guard: false` (--no-guard).",
        )

    def kinds(self, method: Method) -> tuple[Kind, ...]:
        """The methods to begin with."""
        return (method,) if method != "auto" else suited(self.reference, self.scheme)

    @cached_property
    def reference(self) -> "onnx.ModelProto":
        """The float network as the quantizers see it."""
        from edgekit.graph.onnx_model import read_onnx

        model, _ = prepare(read_onnx(self.source))
        return model

    @cached_property
    def float_file(self) -> Path:
        """The same as a file: its nodes have the names that the layers have, whoever made it."""
        from edgekit.graph.onnx_model import write_onnx

        path = self.folder / "float32.onnx"
        write_onnx(self.reference, path)
        return path

    # --- one attempt

    def attempt(
        self,
        rung: str,
        kind: Kind,
        config: PtqConfig,
        *,
        timed: bool = False,
        earlier: Attempt | None = None,
    ) -> Attempt:
        """Make one model and judge it.

        Args:
            rung: what is tried, for people.
            kind: how to quantize.
            config: with what.
            timed: measure latency even where accuracy fails: whether a structure is slower is worth
                knowing before its accuracy is repaired.
            earlier: an attempt with fewer excluded layers, whose ranges and weights are taken
                over.

        Raises:
            OutOfTimeError: the time is over, and this is not the first attempt.
        """
        if self.tried:
            self.deadline.check()
        folder = self.folder / f"{len(self.tried):02d}"
        folder.mkdir()
        began, path = self.deadline.spent_s, folder / "model.onnx"
        limit = "" if self.deadline.seconds is None else f" of {self.deadline.seconds:.0f}"
        self.progress.say(f"    {kind}, {rung} (after {began:.0f}{limit} s)")
        report, accuracy, latency, failure = None, None, None, ""
        try:
            report = self.make(kind, config, path, earlier)
        except PassError as e:
            failure = e.message
        if report is not None and report.quantized == 0:
            failure = "no layer is in int8"
        elif report is not None:
            accuracy = self.judge.accuracy(artifact_of(path), report.output_sqnr_db)
            latency = self.judge.latency(path) if accuracy.passed or timed else None
        seconds = self.deadline.spent_s - began
        found = Attempt(rung, kind, config, path, report, accuracy, latency, seconds, failure)
        self.tried.append(found)
        holds = "holds" if found.passed else "does not hold"
        self.progress.say(f"      {holds}; {found.said} ({seconds:.1f} s)")
        return found

    def make(
        self, kind: Kind, config: PtqConfig, path: Path, earlier: Attempt | None = None
    ) -> QuantReport:
        """Quantize the source into a file.

        Raises:
            PassError: it could not be done.
        """
        if kind == "dynamic":
            return dynamic.quantize_dynamic(
                self.source, path, scheme=self.scheme, calibration=self.calibration(),
                config=config, progress=self.progress,
            )  # fmt: skip
        return quantize_onnx(
            self.source, path, scheme=self.scheme, calibration=self.calibration(),
            config=config, seed=self.seed, progress=self.progress,
            earlier=None if earlier is None or earlier.report is None else earlier.path,
        )  # fmt: skip

    def give_back(
        self, start: Attempt, names: Sequence[str], rung: str, *, slow: bool = False
    ) -> Attempt:
        """Try an attempt again with layers in the higher precision.

        Args:
            start: the attempt.
            names: of the layers.
            rung: what is tried, for people.
            slow: they go back since int8 does not make them faster; else for accuracy.
        """
        if slow:
            self._slow |= set(names)
        return self.attempt(
            rung, start.kind, excluding(start.config, names), timed=slow, earlier=start
        )

    # --- the float network of an attempt, and what its layers cost

    def source_of(self, start: Attempt) -> "onnx.ModelProto":
        """The float network that an attempt was made from."""
        if start.kind == "dynamic":
            import onnx

            model = onnx.ModelProto()
            model.CopyFrom(self.reference)
            dynamic.fold_weights(Graph(model))
            return model
        if start.config.equalize:
            return equalize.equalize(self.reference, self.ranked_on())[0]
        return self.reference

    def partial(self, start: Attempt) -> sensitivity.Partial:
        """The network of an attempt, any layers of which can be quantized by themselves."""
        from edgekit.graph.onnx_model import read_onnx

        source = self.source_of(start)
        if start.kind == "dynamic":
            each = start.config.per_channel
            return sensitivity.of_dynamic(source, self.scheme, per_channel=each)
        feeds = self.ranked_on() if start.config.bias_correction else None
        return sensitivity.static(source, read_onnx(start.path), feeds)

    def ranked_on(self) -> list[dict[str, NDArray[Any]]]:
        """Samples on which layers are ranked."""
        return self.judge.samples(RANKED_ON)

    def gains(self, start: Attempt) -> dict[str, float] | None:
        """Milliseconds that int8 saves in each layer; None where the runtime does not tell."""
        if start.path not in self._gains:
            self._gains[start.path] = self._profiled(start)
        return self._gains[start.path]

    def _profiled(self, start: Attempt) -> dict[str, float] | None:
        latency, report = start.latency, start.report
        if report is None or latency is None or latency.label == "unavailable":
            return None
        try:
            floats, integers = (
                self.judge.layer_ms(path, report.layers, whole)
                for path, whole in (
                    (self.float_file, latency.parent_p50_ms),
                    (start.path, latency.p50_ms),
                )
            )
        except EdgekitError:
            return None
        return {n: floats[n] - integers[n] for n in report.layers}

    def priced(self, kept: Attempt) -> list[Reverted]:
        """The layers that an attempt gave back, and what each costs."""
        from edgekit.graph.onnx_names import layer_names

        given = set(kept.config.exclude) - set(self.config.exclude)
        starts = [a for a in self.tried if a.kind == kept.kind and a.report is not None]
        layers = dict.fromkeys(n for a in starts if a.report for n in a.report.layers)
        names = [n for n in layers if escape(n) in given]
        if not names:
            return []
        gains = next((g for a in starts if a.latency and (g := self.gains(a))), {})
        called = layer_names(self.reference)
        sizes = sensitivity.weight_bytes(self.source_of(kept), names)
        return [
            Reverted(
                node=name,
                layer=called.get(name, name),
                why="latency" if name in self._slow else "accuracy",
                sqnr_without_db=sensitivity.decibels(self.ranked[name])
                if name in self.ranked
                else None,
                bytes=sizes[name][0] - sizes[name][1],
                ms=gains.get(name),
            )
            for name in names
        ]


def speed(attempt: Attempt) -> tuple[float, int]:
    """What is best among attempts that hold: faster, then smaller."""
    speedup = attempt.latency.speedup if attempt.latency else None
    size = attempt.report.size_bytes if attempt.report else 0
    return speedup or 0.0, -size
