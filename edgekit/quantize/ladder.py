"""The ladder: what the guard tries, in order, until a quantized model is accurate and not slower.

A model that is slower than its parent first gives back the layers that int8 does not make faster.
One that is inaccurate gets other ranges, bias correction, SmoothQuant, equalization, AdaRound; then
its worst layers go back to a higher precision, as few as suffice. The first one that holds the gate
is kept; where several methods hold it at the start, the fastest. The evaluation split decides what
is kept, so whoever wants an unbiased figure afterwards holds a split back.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from edgekit.errors import EdgekitError, GateError, PassError
from edgekit.progress import Progress, Silent
from edgekit.quantize import dynamic, equalize, sensitivity
from edgekit.quantize.attempts import (
    Attempt,
    Kind,
    Reverted,
    artifact_of,
    excluding,
    table,
)
from edgekit.quantize.config import Method, PtqConfig
from edgekit.quantize.graph import Graph
from edgekit.quantize.guard import Judge
from edgekit.quantize.methods import suited
from edgekit.quantize.prepare import prepare
from edgekit.quantize.ptq import QuantReport, quantize_onnx

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

Batches = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]
RANKED_ON = 16  # samples on which layers are ranked
_RANGES = ("mse", "percentile", "kl")
_WORTH = 0.1  # how much faster an inaccurate start must be than one that holds, to be repaired
_COSTLY = 0.03  # of the whole latency: what a layer loses by int8 before it is worth a try without


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
        tried: all attempts, in order.
        reverted: of the attempt that was kept.
    """

    source: Path
    scheme: "IntegerScheme"
    calibration: Batches
    judge: Judge
    config: PtqConfig
    folder: Path
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    tried: list[Attempt] = field(default_factory=list)
    reverted: list[Reverted] = field(default_factory=list)

    def climb(self, method: Method) -> Attempt:
        """Find a model that holds the gate.

        Args:
            method: how to quantize; `auto` tries what suits the network.

        Raises:
            GateError: nothing holds it; the message is the table of what was tried.
        """
        starts = [
            self.attempt("as configured", kind, self.config, timed=True)
            for kind in self.kinds(method)
        ]
        held = [a for a in starts if a.passed]
        if held:
            best = max(held, key=_speed)
            return self._repaired_faster(best, starts) or self._without_the_slow(best)
        for start in sorted(starts, key=lambda a: (a.slower, a.loss)):
            found = self._repaired(start) if start.report and start.report.quantized else None
            if found is not None:
                return found
        raise self.failed()

    def failed(self, why: str = "No int8 form of the model holds the guard's gate.") -> GateError:
        """Nothing holds: what was tried, as a table."""
        return GateError(
            f"{why}\n{table(self.tried)}",
            "Keep the float32 model, allow more with `gate:` (--gate), train with quantization, or "
            "take the model as it is with `guard: false` (--no-guard).",
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

    def attempt(self, rung: str, kind: Kind, config: PtqConfig, *, timed: bool = False) -> Attempt:
        """Make one model and judge it.

        Args:
            rung: what is tried, for people.
            kind: how to quantize.
            config: with what.
            timed: measure latency even where accuracy fails: whether a structure is slower is worth
                knowing before its accuracy is repaired.
        """
        folder = self.folder / f"{len(self.tried):02d}"
        folder.mkdir()
        started, path = time.perf_counter(), folder / "model.onnx"
        report, accuracy, latency, failure = None, None, None, ""
        try:
            report = self.make(kind, config, path)
        except PassError as e:
            failure = e.message
        if report is not None and report.quantized == 0:
            failure = "no layer is in int8"
        elif report is not None:
            accuracy = self.judge.accuracy(artifact_of(path), report.output_sqnr_db)
            latency = self.judge.latency(path) if accuracy.passed or timed else None
        seconds = time.perf_counter() - started
        found = Attempt(rung, kind, config, path, report, accuracy, latency, seconds, failure)
        self.tried.append(found)
        holds = "holds" if found.passed else "does not hold"
        self.progress.say(f"    {kind}, {rung}: {holds}; {found.said}")
        return found

    def make(self, kind: Kind, config: PtqConfig, path: Path) -> QuantReport:
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
        )  # fmt: skip

    # --- repairs

    def _repaired_faster(self, best: Attempt, starts: Sequence[Attempt]) -> Attempt | None:
        """Another method, too inaccurate as configured: repaired, where it still beats the best."""
        for start in starts:
            promising = _speed(start)[0] > (1 + _WORTH) * _speed(best)[0]
            if start.passed or start.slower or start.report is None or not promising:
                continue
            found = self._repaired(start)
            if found is not None and _speed(found) > _speed(best):
                return found
        self.reverted = []
        return None

    def _repaired(self, start: Attempt) -> Attempt | None:
        best = start
        self.reverted = []
        if start.slower:
            faster = self._only_what_pays(start)
            if faster is None or faster.passed:
                return faster
            best = faster
        for rung, changed in self._settings(best):
            base = best.config.model_copy(update=changed)
            found = self.attempt(rung, best.kind, base)
            if found.passed:
                return found
            if not found.slower and found.loss < best.loss:
                best = found
        return self._without_the_worst(best)

    def _settings(self, start: Attempt) -> Iterator[tuple[str, dict[str, Any]]]:
        """Settings of static quantization to try, each on top of what was best so far."""
        if start.kind == "dynamic":
            return
        config = start.config
        yield from ((f"ranges {r}", {"ranges": r}) for r in _RANGES if r != config.ranges)
        if not config.bias_correction:
            yield "bias correction", {"bias_correction": True}
        ops = {n.op_type for n in self.reference.graph.node}
        if "MatMul" in ops and "Softmax" in ops and config.smooth_quant_alpha is None:
            yield "SmoothQuant", {"transformer": True, "smooth_quant_alpha": 0.5}
        if not config.equalize and equalize.pairs(Graph(self.reference)):
            yield "equalization", {"equalize": True}
        if not config.adaround:
            yield "AdaRound", {"adaround": True}

    def _without_the_slow(self, best: Attempt) -> Attempt:
        """Of a model that holds, give back the layers that int8 slows down, if that is faster."""
        whole = best.latency.p50_ms if best.latency else None
        gains = self._gains(best) if whole is not None else None
        if whole is None or gains is None:
            return best
        out = [n for n in gains if gains[n] < -_COSTLY * whole]
        if not out or len(out) == len(gains):
            return best
        plural = "layer that int8 slows" if len(out) == 1 else "layers that int8 slows"
        rung = f"{len(out)} {plural} down back to float32"
        found = self.attempt(rung, best.kind, excluding(best.config, out))
        if not found.passed or _speed(found) <= _speed(best):
            return best
        self.reverted = self._priced(best, out, "latency", {}, gains)
        return found

    def _only_what_pays(self, start: Attempt) -> Attempt | None:
        """Give back the layers that int8 does not make faster; the first attempt not slower."""
        gains = self._gains(start)
        if gains is None:
            return None
        paying = sorted((n for n in gains if gains[n] > 0), key=lambda n: -gains[n])
        tried: set[int] = {len(gains)}
        for share in (1, 2, 4):
            kept = paying[: -(-len(paying) // share)]
            if not kept or len(kept) in tried:
                continue
            tried.add(len(kept))
            out = [n for n in gains if n not in kept]
            found = self.attempt(
                f"int8 where it gains most ({len(kept)} of {len(gains)})",
                start.kind,
                excluding(start.config, out),
                timed=True,
            )
            if not found.slower and found.report is not None:
                self.reverted = self._priced(start, out, "latency", {}, gains)
                return found
        return None

    def _gains(self, start: Attempt) -> dict[str, float] | None:
        """Milliseconds that int8 saves in each layer; None where the runtime does not tell."""
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

    def _without_the_worst(self, start: Attempt) -> Attempt | None:
        """Give the fewest layers back that make the model accurate, the worst first."""
        partial = self.partial(start)
        noise = sensitivity.Noise(self.source_of(start), self.ranked_on())
        within = [n for n in partial.layers if start.report and n in start.report.layers]
        ranked = sensitivity.reverted(partial, noise, self.progress, within)
        order = sensitivity.worst_first(ranked)
        failed, count, best = 0, 1, start
        good: Attempt | None = None
        most = len(order) - 1  # without any layer in int8 it is the parent
        while count <= most:
            found = self._giving_back(start, order[:count])
            if _accurate(found):
                good = found
                break
            if found.loss >= best.loss and count < most:  # a regression: rank what is left again
                kept = [n for n in within if n not in order[:count]]
                again = sensitivity.reverted(partial, noise, self.progress, kept)
                ranked |= again
                order = order[:count] + sensitivity.worst_first(again)
            best = min(best, found, key=lambda a: a.loss)
            failed, count = count, max(count + 1, min(2 * count, most))
        while good is not None and count - failed > 1:
            middle = (count + failed) // 2
            found = self._giving_back(start, order[:middle])
            if _accurate(found):
                good, count = found, middle
            else:
                failed = middle
        if good is None or not good.passed:
            return None
        timed = next((a for a in self.tried if a.kind == start.kind and a.latency), start)
        gains = self._gains(timed) or {}
        self.reverted += self._priced(start, order[:count], "accuracy", ranked, gains)
        return good

    def _giving_back(self, start: Attempt, names: Sequence[str]) -> Attempt:
        plural = "layer" if len(names) == 1 else "layers"
        return self.attempt(
            f"{len(names)} {plural} back to float32", start.kind, excluding(start.config, names)
        )

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
            return sensitivity.of_dynamic(source, self.scheme)
        return sensitivity.static(source, read_onnx(start.path))

    def ranked_on(self) -> list[dict[str, NDArray[Any]]]:
        """Samples on which layers are ranked."""
        return self.judge.samples(RANKED_ON)

    def _priced(
        self,
        start: Attempt,
        names: Sequence[str],
        why: Literal["accuracy", "latency"],
        ranked: Mapping[str, float],
        gains: Mapping[str, float],
    ) -> list[Reverted]:
        from edgekit.graph.onnx_names import layer_names

        called = layer_names(self.reference)
        sizes = sensitivity.weight_bytes(self.source_of(start), names)
        return [
            Reverted(
                node=name,
                layer=called.get(name, name),
                why=why,
                sqnr_without_db=sensitivity.decibels(ranked[name]) if name in ranked else None,
                bytes=sizes[name][0] - sizes[name][1],
                ms=gains.get(name),
            )
            for name in names
        ]


def _accurate(attempt: Attempt) -> bool:
    return attempt.accuracy is not None and attempt.accuracy.passed


def _speed(attempt: Attempt) -> tuple[float, int]:
    speedup = attempt.latency.speedup if attempt.latency else None
    size = attempt.report.size_bytes if attempt.report else 0
    return speedup or 0.0, -size
