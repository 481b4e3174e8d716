"""Run a recipe: the shared chain, then each branch; measure, hold the gates, report."""

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__, manifest
from edgekit import target as targets
from edgekit.errors import EdgekitError, RecipeError, UnavailableError, UsageError
from edgekit.passes.base import Context, Pass
from edgekit.pipeline import gates
from edgekit.pipeline.measure import Judge, cpu_threads
from edgekit.pipeline.step import Made, Store, cache_key, make
from edgekit.progress import Progress, Silent
from edgekit.recipe import Branch, Recipe, load
from edgekit.report.schema import BranchReport, RunReport, StepReport
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.data import Dataset

RECIPE = "recipe.yaml"
REPORT = "report.json"


def locate(path: Path) -> Path:
    """The recipe file that a user means: the file, or `recipe.yaml` in a folder."""
    return path / RECIPE if path.is_dir() else path


def explain(path: Path, out: Path | None) -> list[dict[str, Any]]:
    """Say what a recipe would do, without doing it.

    Args:
        path: the recipe.
        out: the run's folder, to see what is there already; None does not look.

    Returns:
        One mapping a step: `branch`, `step`, `folder`, `config` with what the targets decide, and
        `there` (whether an artifact stands in that folder; its key is checked when it runs).
    """
    recipe = load(locate(path))
    _start_format(recipe, locate(path).parent)
    plan: list[dict[str, Any]] = [
        {"branch": "", "step": "capture", "folder": "00-original", "config": _model(recipe)}
    ]
    plan += _explain_chain("", recipe.passes, recipe.targets(), 1)
    for branch, target in zip(recipe.branches, recipe.targets(), strict=True):
        plan += _explain_chain(branch.name, branch.passes, (target,), 1)
        measured = {"bench": branch.bench, "gates": branch.gates.model_dump(exclude_none=True)}
        plan.append({"branch": branch.name, "step": "measure", "folder": "", "config": measured})
    for step in plan:
        folder = step["folder"]
        there = out is not None and folder and (out / str(folder) / manifest.FILE).is_file()
        step["there"] = bool(there)
    return plan


def _model(recipe: Recipe) -> dict[str, Any]:
    return recipe.model.model_dump(exclude_none=True)


def _explain_chain(
    branch: str, chain: Sequence[Pass], chain_targets: Sequence[Target], first: int
) -> list[dict[str, Any]]:
    return [
        {
            "branch": branch,
            "step": step.title,
            "folder": str(Path(branch) / f"{i:02d}-{step.title}"),
            "config": step.resolve(chain_targets).model_dump(mode="json", exclude_none=True),
        }
        for i, step in enumerate(chain, first)
    ]


def _start_format(recipe: Recipe, base: Path) -> None:
    source = recipe.model.source(base)
    recipe.check_formats("onnx" if source is not None and source.suffix == ".onnx" else "pt2")


def run_recipe(
    path: Path,
    out: Path,
    *,
    branches: Sequence[str] | None = None,
    fresh: bool = False,
    threads: int | None = None,
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
        progress: where to show the progress.

    Returns:
        The report. Gates that are not held are in it and raise nothing: see `raise_for_verdict`.

    Raises:
        RecipeError: the recipe is not valid.
        UsageError: a file is missing or broken, or `out` cannot be written.
        UnavailableError: something is missing here, in a branch that is not optional.
        PassError: a step failed.
    """
    path = locate(path)
    recipe = load(path)
    _start_format(recipe, path.parent)
    unknown = set(branches or ()) - {b.name for b in recipe.branches}
    if unknown:
        names = ", ".join(b.name for b in recipe.branches)
        raise RecipeError(f"There is no branch {min(unknown)!r}.", f"Branches are {names}.")
    with locked(out):
        started = time.perf_counter()
        run = _Run(
            recipe=recipe,
            base=path.parent.resolve(),
            out=out,
            store=Store(out, fresh=fresh),
            threads=threads or cpu_threads(),
            progress=progress or Silent(),
        )
        return run.run(set(branches or ()), started)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the run's folder, and keep a second run out of it.

    Raises:
        UsageError: it cannot be written, or another run is at work in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
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
        yield


@dataclass
class _Run:
    recipe: Recipe
    base: Path
    out: Path
    store: Store
    threads: int
    progress: Progress
    data: "Dataset | None" = None
    original: Made | None = None
    made_now: int = 0
    found: int = 0
    errors: list[EdgekitError] = field(default_factory=list)

    def run(self, only: set[str], started: float) -> RunReport:
        started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        if self.recipe.data is not None:
            from edgekit.data import open_data

            self.data = open_data(self.recipe.data, self.base)
        self.original = made = self._capture()
        shared = []
        for i, step in enumerate(self.recipe.passes, 1):
            made = self._step(step, made, f"{i:02d}-{step.title}", self.recipe.targets())
            shared.append(made)
        judge = Judge(
            store=self.store,
            original=self.original,
            data=self.data,
            task=self.recipe.task,
            seed=self.recipe.seed,
            threads=self.threads,
            progress=self.progress,
            imports=self.recipe.model.imports,
        )
        reports = [
            self._branch(branch, shared, judge)
            for branch in self.recipe.branches
            if not only or branch.name in only
        ]
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
        model = self.recipe.model
        key = cache_key(
            kind="capture",
            model=model.fingerprint(self.base),
            inputs=[s.model_dump() for s in self.data.inputs] if self.data else None,
            seed=self.recipe.seed,
            versions=manifest.versions(),
        )
        made = make(
            self.store,
            self.out / "00-original",
            step="original",
            config={"kind": "capture", **_model(self.recipe)},
            key=key,
            context=self._context(),
            run=model.run,
        )
        return self._note(made, "original")

    def _step(self, step: Pass, parent: Made, folder: str, for_targets: Sequence[Target]) -> Made:
        step = step.resolve(for_targets)
        context = self._context()
        made = make(
            self.store,
            self.out / folder,
            step=step.title,
            config=step.model_dump(mode="json"),
            key=step_key(step, parent, context),
            context=context,
            run=lambda c: step.run(parent.artifact, c),
        )
        return self._note(made, folder)

    def _branch(self, branch: Branch, shared: Sequence[Made], judge: Judge) -> BranchReport:
        """One branch to its end; what it cannot do is in its report, not in the others' way."""
        target = targets.load(branch.target)
        chain: list[Made] = []
        made = shared[-1] if shared else judge.original
        failure: EdgekitError | None = None
        try:
            for i, step in enumerate(branch.passes, 1):
                folder = f"{branch.name}/{i:02d}-{step.title}"
                made = self._step(step, made, folder, (target,))
                chain.append(made)
        except UnavailableError as e:
            failure = e
            if branch.optional:
                self.progress.say(f"  {branch.name}: skipped. {e.message} {e.hint}")
        except EdgekitError as e:
            failure = e
        if failure is not None and not (branch.optional and isinstance(failure, UnavailableError)):
            self.errors.append(failure)
        measured = judge.branch(branch, target, shared, chain)
        if failure is not None:
            skipped = failure not in self.errors
            lost = branch.passes[len(chain)]
            step_report = StepReport(
                name=lost.title,
                kind=lost.kind,
                status="skipped" if skipped else "failed",
                reason=str(failure),
            )
            return measured.model_copy(
                update={
                    "steps": (*measured.steps, step_report),
                    "status": "skipped" if skipped else "failed",
                    "reason": str(failure),
                }
            )
        held = gates.hold(
            branch.gates,
            branch.name,
            measured.original or judge.original_report(),
            measured.steps or judge.reports(shared) or (judge.original_report(),),
        )
        passed = all(g.passed for g in held)
        return measured.model_copy(
            update={"gates": held, "status": "passed" if passed else "failed"}
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
        failed = any(b.status == "failed" for b in branches)
        return RunReport(
            edgekit=__version__,
            recipe=self.recipe.name,
            seed=self.recipe.seed,
            started_utc=started_utc,
            seconds=round(time.perf_counter() - started, 3),
            metric=judge.metric_name,
            higher_is_better=judge.higher_is_better,
            quick=any(b.bench == "quick" for b in self.recipe.branches),
            versions=manifest.versions(),
            device=judge.device(),
            data=self.data.summary() if self.data else {},
            original=judge.original_report(),
            shared=judge.reports(shared),
            branches=tuple(branches),
            warnings=tuple(judge.warnings),
            verdict="failed" if failed else "passed",
        )

    def _write(self, report: RunReport) -> None:
        from edgekit.report.markdown import markdown

        try:
            manifest.write_text_atomically(
                self.out / REPORT, report.model_dump_json(indent=2) + "\n"
            )
            manifest.write_text_atomically(self.out / "report.md", markdown(report))
            try:
                from edgekit.report.html import html

                manifest.write_text_atomically(self.out / "report.html", html(report))
            except UnavailableError as e:
                self.progress.say(f"  no HTML report: {e.message} {e.hint}")
        except OSError as e:
            raise UsageError(
                f"The report cannot be written to {self.out}: {e.strerror}.",
                "Free some disk space; every finished step is kept.",
            ) from e


def step_key(step: Pass, parent: Made, context: Context) -> str:
    """The cache key of a step: everything that decides what it makes."""
    return cache_key(
        config=step.model_dump(mode="json", exclude={"name"}),
        parent=parent.artifact.content_hash,
        format=parent.artifact.format,
        reads=step.reads(context),
        data=context.data.summary() if context.data and step.needs_data else None,
        task=context.task.model_dump() if step.needs_data else None,
        seed=context.seed,
        threads=context.threads if step.trains else None,
        versions=manifest.versions(),
    )
