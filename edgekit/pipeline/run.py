"""Run a recipe: the shared chain, then each branch; measure, hold the gates, report."""

import fcntl
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit import __version__, manifest
from edgekit.entry import import_modules
from edgekit.errors import DeviceError, EdgekitError, RecipeError, UnavailableError, UsageError
from edgekit.passes.base import Context, Pass
from edgekit.pipeline import crew, gates
from edgekit.pipeline.branch_bench import Places
from edgekit.pipeline.cost import CostMeter, total
from edgekit.pipeline.foresight import foreseen
from edgekit.pipeline.measure import Judge, cpu_threads
from edgekit.pipeline.plan import ORIGINAL, check_start, locate
from edgekit.pipeline.step import STAGING, Made, Store, capture_key, guarded, make, step_key
from edgekit.progress import Progress, Silent
from edgekit.recipe import Branch, Recipe, load
from edgekit.report.schema import BranchReport, GateReport, RunReport, StepReport
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.data import Dataset

REPORT = "report.json"
CACHE = ".cache"


def run_recipe(
    path: Path,
    out: Path,
    *,
    branches: Sequence[str] | None = None,
    fresh: bool = False,
    threads: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Run a recipe and write its report into `out`.

    What an earlier run in `out` made is used again where nothing that decides it has changed.

    Args:
        path: a recipe, or a folder with a `recipe.yaml`.
        out: the run's folder.
        branches: only these; None for all.
        fresh: make everything again.
        threads: CPU threads for training and evaluation; all of them unless given.
        device: measure every branch there, whatever the recipe says: a device of the user's, or
            `local`.
        progress: where to show the progress.

    Returns:
        The report. Gates that are not held are in it and raise nothing: see `raise_for_verdict`.

    Raises:
        RecipeError: the recipe is not valid.
        UsageError: a file is missing or broken, `out` cannot be written, or a device is unknown.
        UnavailableError: something is missing here, in a branch that is not optional.
        PassError: a step failed.
        DeviceError: a device cannot be reached or was lost; everything else was done and is kept.
    """
    path = locate(path)
    recipe = load(path)
    check_start(recipe, path.parent)
    unknown = set(branches or ()) - {b.name for b in recipe.branches}
    if unknown:
        names = ", ".join(b.name for b in recipe.branches)
        raise RecipeError(f"There is no branch {min(unknown)!r}.", f"Branches are {names}.")
    places = Places(device)
    places.check([b for b in recipe.branches if not branches or b.name in branches])
    with locked(out, out), CostMeter(recipe.meter) as cost:
        started = time.perf_counter()
        run = _Run(
            recipe=recipe,
            base=path.parent.resolve(),
            out=out,
            store=Store(out, fresh=fresh, cost=cost),
            threads=threads or cpu_threads(),
            progress=progress or Silent(),
            places=places,
        )
        run.store.clear()
        for warning in _foreseen(recipe, branches, places):
            run.progress.say(f"  warning: {warning}")
        return run.run(set(branches or ()), started)


def _foreseen(recipe: Recipe, branches: Sequence[str] | None, places: Places) -> Iterator[str]:
    """Gates that are sure to fail, told before anything long is done."""
    for branch, target in zip(recipe.branches, recipe.targets(), strict=True):
        if not branches or branch.name in branches:
            yield from foreseen(branch, target, places)


@contextmanager
def locked(folder: Path, out: Path) -> Iterator[None]:
    """Make a folder to work in, and keep a second run out of it.

    Args:
        folder: holds the lock.
        out: what the user calls it.

    Raises:
        UsageError: it cannot be written, or another run is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as e:
        raise UsageError(
            f"The output folder {out} cannot be written: {e.strerror}.", "Give another with -o."
        ) from e
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise UsageError(
                f"Another run is at work in {out}.", "Wait for it, or give another folder with -o."
            ) from e
        try:
            yield
        finally:
            # Ctrl-C may come while a step clears its own staging.
            shutil.rmtree(folder / STAGING, ignore_errors=True)


@dataclass
class _Run:
    recipe: Recipe
    base: Path
    out: Path
    store: Store
    threads: int
    progress: Progress
    places: Places
    data: "Dataset | None" = None
    original: Made | None = None
    made_now: int = 0
    found: int = 0
    errors: list[EdgekitError] = field(default_factory=list)
    skips: list[EdgekitError] = field(default_factory=list)

    def run(self, only: set[str], started: float) -> RunReport:
        started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        # A run that goes on where it was loads what is there, and builds nothing from the source.
        import_modules(self.recipe.model.imports, self.base)
        if self.recipe.data is not None:
            from edgekit.data import open_data

            self.data = open_data(self.recipe.data, self.base)
        self.original = made = self._capture()
        judge = Judge(
            store=self.store,
            original=self.original,
            data=self.data,
            task=self.recipe.task,
            seed=self.recipe.seed,
            threads=self.threads,
            progress=self.progress,
            imports=self.recipe.model.imports,
            places=self.places,
        )
        # Before anything is trained: data that does not fit the network is found now.
        judge.judge(made, None)
        shared: list[Made] = []
        for i, step in enumerate(self.recipe.passes, 1):
            parent = made
            made = self._step(step, parent, f"{i:02d}-{step.title}", self.recipe.targets())
            judge.judge(made, parent)
            shared.append(made)
        chosen = [
            (branch, target)
            for branch, target in zip(self.recipe.branches, self.recipe.targets(), strict=True)
            if not only or branch.name in only
        ]
        reports = [self._branch(branch, target, shared, judge) for branch, target in chosen]
        if len(self.skips) == len(chosen):
            self.errors.append(self.skips[0])  # a run that made nothing for any target
        report = self._report(judge, shared, reports, started_utc, started)
        self._write(report)
        if self.errors:
            raise self.errors[0]
        return report

    def _context(self) -> Context:
        return Context(
            out=self.out,
            seed=self.recipe.seed,
            task=self.recipe.task,
            base=self.base,
            data=self.data,
            original=self.original.artifact if self.original else None,
            threads=self.threads,
            imports=self.recipe.model.imports,
            progress=self.progress,
            cache=self.out / CACHE,
        )

    def _note(self, made: Made, where: str) -> Made:
        if made.cached:
            self.found += 1
            self.progress.say(f"  {where}: already there")
        else:
            self.made_now += 1
            self.progress.say(f"  {where}: {made.manifest.seconds:.1f} s")
        for warning in made.manifest.warnings:
            self.progress.say(f"    warning: {warning}")
        return made

    def _capture(self) -> Made:
        model, context = self.recipe.model, self._context()
        made = make(
            self.store,
            self.out / ORIGINAL,
            step="original",
            config={"kind": "capture", **model.model_dump(mode="json", exclude_none=True)},
            key=capture_key(model, context),
            context=context,
            run=model.run,
        )
        return self._note(made, "original")

    def _step(self, step: Pass, parent: Made, folder: str, for_targets: Sequence[Target]) -> Made:
        step = step.resolve(for_targets)
        context = self._context()
        try:
            made = make(
                self.store,
                self.out / folder,
                step=step.title,
                config=step.model_dump(mode="json"),
                key=step_key(step, parent, context),
                context=context,
                run=lambda c: crew.run_step(step, parent.artifact, c),
            )
        except EdgekitError as e:
            if repr(step.title) not in e.message:
                e.message = f"Step {folder!r}: {e.message}"
            raise
        return self._note(made, folder)

    def _branch(
        self, branch: Branch, target: Target, shared: Sequence[Made], judge: Judge
    ) -> BranchReport:
        """One branch to its end; what it cannot do is in its report, not in the others' way."""
        chain: list[Made] = []
        made = shared[-1] if shared else judge.original
        failure: EdgekitError | None = None
        try:
            for i, step in enumerate(branch.passes, 1):
                parent = made
                made = self._step(step, parent, f"{branch.name}/{i:02d}-{step.title}", (target,))
                judge.judge(made, parent)
                chain.append(made)
        except EdgekitError as e:
            failure = e
        try:
            measured = judge.branch(branch, target, shared, chain)
        except EdgekitError as e:
            failure = failure or e
            measured = judge.branch(branch, target, shared, chain, lost=str(e))
        if failure is not None:
            return self._ended(branch, measured, failure, branch.passes[len(chain) :], judge)
        held = _hold(branch, measured, judge)
        passed = all(g.passed for g in held)
        return measured.model_copy(
            update={"gates": held, "status": "passed" if passed else "failed"}
        )

    def _ended(
        self,
        branch: Branch,
        measured: BranchReport,
        failure: EdgekitError,
        left: Sequence[Pass],
        judge: Judge,
    ) -> BranchReport:
        """The report of a branch that could not be finished, and its place in the exit code."""
        skipped = branch.optional and isinstance(failure, (UnavailableError, DeviceError))
        (self.skips if skipped else self.errors).append(failure)
        status: Literal["skipped", "failed"] = "skipped" if skipped else "failed"
        # The run ends with its first error, which then says all that there is to say.
        last_word = not skipped and len(self.errors) == 1
        said = failure.message.partition("\n")[0] if last_word else str(failure)
        self.progress.say(f"  {branch.name}: {status}. {said}")
        steps = measured.steps
        if left:
            lost = StepReport(
                name=left[0].title,
                kind=left[0].kind,
                status=status,
                reason=failure.sentence,
                details=failure.details,
            )
            steps = (*steps, lost)
        if left or skipped:
            what = f"the step {left[0].title!r}" if left else "the branch"
            why = f"{what} {'was skipped' if skipped else 'failed'}"
            held = gates.not_judged(branch.gates, branch.name, judge.original_report(), why)
        else:
            held = _hold(branch, measured, judge)
        return measured.model_copy(
            update={"steps": steps, "status": status, "reason": failure.sentence, "gates": held}
        )

    def _report(
        self,
        judge: Judge,
        shared: Sequence[Made],
        branches: Sequence[BranchReport],
        started_utc: str,
        started: float,
    ) -> RunReport:
        nothing = self.made_now == 0 and judge.measured_now == 0
        if nothing:
            self.progress.say("Nothing to do: every step and every measurement was already there.")
        failed = bool(self.errors) or any(b.status == "failed" for b in branches)
        reports = judge.reports(shared)
        cost_seconds, cost_j = total([*reports, *(s for b in branches for s in b.steps)])
        return RunReport(
            edgekit=__version__,
            recipe=self.recipe.name,
            seed=self.recipe.seed,
            started_utc=started_utc,
            seconds=round(time.perf_counter() - started, 3),
            cost_seconds=round(cost_seconds, 3),
            cost_j=cost_j,
            metric=judge.metric_name,
            higher_is_better=judge.higher_is_better,
            quick=any(b.bench.get("protocol", {}).get("quick", False) for b in branches),
            versions=manifest.versions(),
            device=judge.device(),
            data=self.data.summary() if self.data else {},
            original=judge.original_report(),
            shared=reports,
            branches=tuple(branches),
            warnings=tuple(judge.warnings),
            verdict="failed" if failed else "passed",
        )

    def _write(self, report: RunReport) -> None:
        from edgekit.report.junit import junit
        from edgekit.report.markdown import markdown

        with guarded("Writing the report"):
            manifest.write_text_atomically(
                self.out / REPORT, report.model_dump_json(indent=2) + "\n"
            )
            manifest.write_text_atomically(self.out / "report.md", markdown(report))
            manifest.write_text_atomically(self.out / "report.junit.xml", junit(report))
            try:
                from edgekit.report.html import html

                manifest.write_text_atomically(self.out / "report.html", html(report))
            except UnavailableError as e:
                self.progress.say(f"  no HTML report: {e.message} {e.hint}")


def _hold(branch: Branch, measured: BranchReport, judge: Judge) -> tuple[GateReport, ...]:
    original = measured.original or judge.original_report()
    steps = measured.steps or measured.shared or (original,)
    return gates.hold(branch.gates, branch.name, original, steps)
