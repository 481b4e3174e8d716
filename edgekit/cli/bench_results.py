"""What happens around a benchmark: what can be refused before it, and what is done with it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgekit.cli import common, units
from edgekit.cli.app import INTERRUPTED
from edgekit.errors import DeviceError, EdgekitError, GateError, UsageError

if TYPE_CHECKING:
    from edgekit.bench import BenchResult, Comparison
    from edgekit.pipeline.bench_request import BenchRequest
    from edgekit.pipeline.benchmark import Outcome


@dataclass(frozen=True)
class Finish:
    """What is done with a benchmark once it is there.

    Attributes:
        devices: where it runs; this machine where empty.
        baseline: the stored baseline, read; None without one.
        path: its file.
        allowed: the largest slow-down as a fraction, None for any.
        strict: hold the whole interval against it.
        json: print JSON.
        save: where the raw samples go.
        verdict: end with a sentence that says which model is faster.
    """

    devices: tuple[str, ...]
    baseline: "BenchResult | None"
    path: Path | None
    allowed: float | None
    strict: bool
    json: bool
    save: Path | None
    verdict: bool

    @classmethod
    def of(
        cls,
        request: "BenchRequest",
        devices: Sequence[str],
        *,
        baseline: Path | None = None,
        max_slowdown: str | None,
        strict: bool,
        json: bool,
        save: Path | None,
        verdict: bool = False,
    ) -> "Finish":
        """Check what can be checked before anything is measured.

        Raises:
            UsageError: an option cannot be read, a file cannot be written, or the stored baseline
                cannot be compared with what is going to be measured.
        """
        from edgekit.pipeline import baseline as stored
        from edgekit.pipeline.bench_subjects import labels
        from edgekit.pipeline.raw import check_place

        allowed = None if max_slowdown is None else units.share(max_slowdown, "--max-slowdown")
        if strict and allowed is None:
            raise UsageError("--strict has nothing to hold.", "Give --max-slowdown as well.")
        if save is not None:
            check_place(save)
        known = None
        if baseline is not None:
            if len(devices) > 1:
                raise UsageError(
                    "A stored baseline belongs to one device, and several were named.",
                    "Name one --device.",
                )
            known = stored.read(baseline)
            request.check()
            here = None if devices else _fingerprint()
            names = labels(request.models)
            stored.check_before(known, baseline, names, request.protocol(), here)
        return cls(tuple(devices), known, baseline, allowed, strict, json, save, verdict)

    def run(self, request: "BenchRequest") -> None:
        """Measure, show, save, and end with the exit code that the outcome deserves.

        Raises:
            UsageError: the stored baseline does not fit what was measured.
            GateError: a model is slower than allowed.
            DeviceError: a device of several failed; the others' results were shown.
            typer.Exit: Ctrl-C came, and what there is was shown.
        """
        from edgekit.pipeline import bench_models
        from edgekit.pipeline.raw import save_raw

        with common.progress() as progress:
            outcomes = bench_models(request, devices=self.devices, progress=progress)
            if self.save is not None:
                save_raw(self.save, outcomes)
        against, refusal = self._against(outcomes)
        if self.json:
            common.print_json(plain(outcomes, against))
        else:
            self._show(request, outcomes, against)
        if any(outcome.interrupted for outcome in outcomes):
            raise typer.Exit(INTERRUPTED)
        if refusal is not None:
            raise refusal
        _raise_for_devices(outcomes)
        self._hold(outcomes, against)

    def _against(
        self, outcomes: "Sequence[Outcome]"
    ) -> "tuple[dict[str, Comparison], UsageError | None]":
        from edgekit.pipeline import baseline as stored

        result = outcomes[0].result
        if self.baseline is None or self.path is None or result is None:
            return {}, None
        try:
            return stored.against(self.baseline, self.path, result), None
        except UsageError as e:  # what was measured is shown all the same
            return {}, e

    def _show(
        self,
        request: "BenchRequest",
        outcomes: "Sequence[Outcome]",
        against: "Mapping[str, Comparison]",
    ) -> None:
        from edgekit.cli import show_bench
        from edgekit.pipeline.machine import meters_here

        show_bench.table(outcomes)
        show_bench.details(outcomes)
        if against:
            show_bench.against_baseline(against)
        if self.verdict:
            show_bench.verdicts(outcomes)
        if not self.devices and not request.wanted_meters() and (found := meters_here()):
            show_bench.hint_meters(found)

    def _hold(self, outcomes: "Sequence[Outcome]", against: "Mapping[str, Comparison]") -> None:
        from edgekit.pipeline.compare import raise_for_slowdown

        if self.allowed is None:
            return
        if against:
            raise_for_slowdown(against, self.allowed, strict=self.strict)
            return
        found: list[GateError] = []
        for outcome in outcomes:
            try:
                comparisons = outcome.result.comparisons if outcome.result else {}
                raise_for_slowdown(comparisons, self.allowed, strict=self.strict)
            except GateError as e:
                e.message = f"{outcome.device}: {e.message}" if len(outcomes) > 1 else e.message
                found.append(e)
        if found:
            raise GateError(" ".join(e.message for e in found), found[0].hint)


def plain(
    outcomes: "Sequence[Outcome]", against: "Mapping[str, Comparison] | None" = None
) -> dict[str, Any]:
    """The results as JSON: one result, or with several devices one a device, and their errors."""
    from edgekit.bench.result import SCHEMA_VERSION

    if len(outcomes) == 1:
        found = outcomes[0].plain()
        if against:
            found["against_baseline"] = {name: asdict(c) for name, c in against.items()}
        return found
    return {
        "schema_version": SCHEMA_VERSION,
        "results": {o.device: o.plain() for o in outcomes if o.result is not None},
        "errors": {
            o.device: {
                "kind": type(o.error).__name__,
                "message": o.error.message,
                "hint": o.error.hint,
                "exit_code": o.error.exit_code,
            }
            for o in outcomes
            if o.error is not None
        },
    }


def _raise_for_devices(outcomes: "Sequence[Outcome]") -> None:
    failed = [(o.device, o.error) for o in outcomes if o.error is not None]
    if not failed:
        return
    hints = dict.fromkeys(e.hint for _, e in failed)
    lines = " ".join(_sentence(device, e) for device, e in failed)
    raise DeviceError(f"{len(failed)} of {len(outcomes)} devices failed. {lines}", " ".join(hints))


def _sentence(device: str, error: EdgekitError) -> str:
    named = error.message.startswith(device)
    text = error.message if named else f"{device}: {error.message}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _fingerprint() -> dict[str, Any]:
    from edgekit.bench.fingerprint import fingerprint

    return dict(fingerprint())
