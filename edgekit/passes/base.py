"""What a pass is: a frozen configuration that turns one artifact into a new one.

A pass is pure data until `run` is called, and `run` sees nothing but the artifact, its own fields
and the context. Whatever it takes from a target it takes in `resolve`, before it runs, so that the
resolved fields alone say what was done: they are what the cache is keyed by and what the manifest
records.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from edgekit.artifact import Artifact, Format
from edgekit.progress import Progress, Silent
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.data import Dataset
    from edgekit.graph.program import Program
    from edgekit.metrics import Task


@dataclass
class Context:
    """What the pipeline lends a pass for one run.

    Attributes:
        out: an empty folder of the pass's own; whatever it leaves there becomes the artifact.
        seed: every random choice comes from it.
        task: what the network is for.
        base: the recipe's folder, which relative paths start from.
        data: the data set, None where the recipe has none.
        original: the artifact that the recipe started from: the default teacher.
        threads: CPU threads to use.
        imports: modules of the user's that register custom operators.
        cache: a folder that outlives the step, for what is worth finding again: a training's state
            and a teacher's answers; None keeps nothing.
        progress: where to say how far it is.
        notes: what the pass found worth telling; goes into the manifest and the report.
        warnings: what the user should know, one sentence each.
    """

    out: Path
    seed: int
    task: "Task"
    base: Path = field(default_factory=Path.cwd)
    data: "Dataset | None" = None
    original: Artifact | None = None
    threads: int = 1
    imports: tuple[str, ...] = ()
    cache: Path | None = None
    progress: Progress = field(default_factory=Silent)
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def load(self, path: Path) -> "Program":
        """Load a `.pt2` safely, with the custom operators that the user allowed.

        Raises:
            UsageError: it is broken, or holds something that could run code.
        """
        from edgekit.graph.store import load

        return load(path, self.imports)

    def warn(self, message: str) -> None:
        """Tell the user something, once."""
        if message not in self.warnings:
            self.warnings.append(message)


class Pass(BaseModel):
    """One step of a recipe. Its fields are its hyper-parameters; the configuration is the pass.

    A subclass gives `kind` as a Literal, sets the class variables and implements `run`.

    Attributes:
        kind: what the recipe calls it, in kebab-case.
        name: the step's name in reports and folders; the kind unless said otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    accepts: ClassVar[frozenset[Format]]
    produces: ClassVar[Format | None] = None  # None: its fields decide
    needs_data: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True  # False: the machine decides too
    trains: ClassVar[bool] = False  # sums in another order with another number of threads

    kind: str
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

    @property
    def reads_data(self) -> bool:
        """Whether it looks at the recipe's data; some passes do only with some fields."""
        return self.needs_data

    @property
    def measures(self) -> bool:
        """Whether this machine decides what comes out; of some passes only with some fields."""
        return not self.deterministic

    @property
    def title(self) -> str:
        """What the step is called."""
        return self.name or self.kind

    def resolve(self, targets: Sequence[Target]) -> Self:
        """Fill in what the targets decide.

        Args:
            targets: the branch's one target, or those of all branches for a shared step.
        """
        del targets
        return self

    def reads(self, context: Context) -> tuple[str, ...]:
        """What decides the result beside its artifact, its data and its fields, as stable text.

        Content hashes of other artifacts (a teacher), or what a device says of itself.
        """
        del context
        return ()

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Do it: read `artifact`, write files into `context.out`, describe them.

        Raises:
            PassError: it could not be done.
            UnavailableError: a library, driver or device is missing.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement run()")
