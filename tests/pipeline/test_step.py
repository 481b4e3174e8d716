"""A step's folder is complete or absent, whatever happens; the same key is never made twice."""

from pathlib import Path

import pytest

from edgekit import manifest
from edgekit.artifact import Artifact, TensorSpec
from edgekit.errors import PassError, UsageError
from edgekit.metrics import Task
from edgekit.passes.base import Context
from edgekit.pipeline.run import locked
from edgekit.pipeline.step import STAGING, Store, cache_key, make

SPEC = TensorSpec(name="x", dtype="float32", shape=("batch", 4))


class Work:
    """A pass that writes a file, counts its runs, and may fail half-way."""

    def __init__(
        self, error: BaseException | None = None, content: str = "model", snippet: str = ""
    ) -> None:
        self.runs, self.error, self.content, self.snippet = 0, error, content, snippet

    def __call__(self, context: Context) -> Artifact:
        self.runs += 1
        (context.out / "model.onnx").write_text(self.content)
        if self.error:
            raise self.error
        if self.snippet:
            (context.out / "infer.py").write_text(self.snippet)
        context.notes["runs"] = self.runs
        return Artifact.create(
            context.out,
            model="model.onnx",
            format="onnx",
            inputs=(SPEC,),
            outputs=(SPEC,),
            made_by="work",
            extra_files=("infer.py",) if self.snippet else (),
        )


def do(out: Path, work: Work, *, folder: str = "01-work", key: str = "k", fresh: bool = False):
    context = Context(out=out, seed=0, task=Task())
    return make(
        Store(out, fresh=fresh),
        out / folder,
        step="work",
        config={},
        key=key,
        context=context,
        run=work,
    )


def test_a_step_is_made_once_and_then_found(tmp_path: Path) -> None:
    work = Work()
    first, second = do(tmp_path, work), do(tmp_path, work)
    assert work.runs == 1
    assert (first.cached, second.cached) == (False, True)
    assert first.artifact == second.artifact
    assert second.artifact.path.read_text() == "model"


def test_another_key_or_fresh_makes_it_again(tmp_path: Path) -> None:
    work = Work()
    do(tmp_path, work)
    do(tmp_path, work, key="other")
    do(tmp_path, work, key="other", fresh=True)
    assert work.runs == 3


def test_the_same_key_elsewhere_in_the_run_is_copied(tmp_path: Path) -> None:
    work = Work()
    do(tmp_path, work)
    copy = do(tmp_path, work, folder="x86/01-work")
    assert work.runs == 1
    assert copy.cached
    assert copy.artifact.root == tmp_path / "x86/01-work"


@pytest.mark.parametrize("damage", ["tamper", "truncate", "no manifest"])
def test_a_damaged_artifact_is_made_again(tmp_path: Path, damage: str) -> None:
    work = Work()
    made = do(tmp_path, work)
    if damage == "tamper":
        made.artifact.path.write_text("evil!")
    elif damage == "truncate":
        (made.artifact.root / manifest.FILE).write_text("{")
    else:
        made.artifact.path.unlink()
    do(tmp_path, work)
    assert work.runs == 2
    assert made.artifact.path.read_text() == "model"


def test_a_snippet_that_nobody_touched_is_written_again(tmp_path: Path) -> None:
    do(tmp_path, Work(snippet="# one"))
    again = do(tmp_path, Work(snippet="# two"), key="other")
    assert (tmp_path / "01-work/infer.py").read_text() == "# two"
    assert again.manifest.warnings == ()
    (tmp_path / "01-work/infer.py").unlink()  # the user may take it
    do(tmp_path, Work(snippet="# three"), key="third")
    assert (tmp_path / "01-work/infer.py").read_text() == "# three"


def test_a_snippet_that_the_user_went_on_with_is_kept(tmp_path: Path) -> None:
    do(tmp_path, Work(snippet="# one"))
    mine = tmp_path / "01-work/infer.py"
    mine.write_text("# mine")
    for key in ("second", "third"):  # and it is still theirs the next time
        made = do(tmp_path, Work(content=key, snippet=f"# {key}"), key=key)
        assert mine.read_text() == "# mine"
        assert made.artifact.path.read_text() == key
        assert made.artifact.intact()
        assert len(made.manifest.warnings) == 1
        assert made.manifest.warnings[0].startswith("infer.py is kept as it is")
    do(tmp_path, Work(content="third"), key="none")  # a model that gets no snippet
    do(tmp_path, Work(snippet="# fifth"), key="fifth", fresh=True)
    assert mine.read_text() == "# mine"
    do(tmp_path, Work(snippet="# copied"), folder="02-work", key="sixth")
    copy = do(tmp_path, Work(ValueError("it must not run")), key="sixth")
    assert copy.cached
    assert mine.read_text() == "# mine"
    assert (tmp_path / "02-work/infer.py").read_text() == "# copied"


def test_a_program_in_a_folder_that_edgekit_did_not_make_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "01-work"
    folder.mkdir()
    (tmp_path / "elsewhere.py").write_text("# linked")
    (folder / "infer.py").symlink_to("../elsewhere.py")
    do(tmp_path, Work(snippet="# one"))
    assert (folder / "infer.py").read_text() == "# linked"
    assert (folder / "infer.py").is_symlink()
    (folder / "infer.cpp").mkdir()
    with pytest.raises(UsageError, match=r"infer\.cpp is not edgekit's"):
        do(tmp_path, Work(), key="other")


@pytest.mark.parametrize("error", [ValueError("boom"), OSError(28, "No space left on device")])
def test_a_failure_leaves_nothing_and_names_the_step(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(PassError, match="'work'") as raised:
        do(tmp_path, Work(error))
    assert raised.value.__cause__ is error
    assert not (tmp_path / "01-work").exists()
    assert not (tmp_path / STAGING).exists()


def test_ctrl_c_leaves_the_old_artifact_whole(tmp_path: Path) -> None:
    do(tmp_path, Work())
    with pytest.raises(KeyboardInterrupt):
        do(tmp_path, Work(KeyboardInterrupt(), content="new"), key="other")
    assert (tmp_path / "01-work/model.onnx").read_text() == "model"
    assert manifest.read(tmp_path / "01-work").cache_key == "k"
    assert not (tmp_path / STAGING).exists()


def test_a_folder_of_the_users_own_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "01-work").mkdir()
    (tmp_path / "01-work/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="in the way"):
        do(tmp_path, Work())
    assert (tmp_path / "01-work/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("manifest_there", [True, False])
def test_an_artifacts_folder_with_the_users_notes_in_it_is_not_replaced(
    tmp_path: Path, manifest_there: bool
) -> None:
    do(tmp_path, Work())
    (tmp_path / "01-work/notes.txt").write_text("mine")
    if not manifest_there:
        (tmp_path / "01-work" / manifest.FILE).write_text('{"name": "a web app"}')
    with pytest.raises(UsageError, match=r"notes\.txt is not edgekit's"):
        do(tmp_path, Work(), key="other")
    assert (tmp_path / "01-work/notes.txt").read_text() == "mine"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "01-work").write_text("a file")
    with pytest.raises(UsageError, match="in the way"):
        do(tmp_path, Work())
    assert (tmp_path / "01-work").read_text() == "a file"


def test_a_copy_has_the_name_of_its_own_step(tmp_path: Path) -> None:
    do(tmp_path, Work())
    copy = make(
        Store(tmp_path),
        tmp_path / "01-renamed",
        step="renamed",
        config={"name": "renamed"},
        key="k",
        context=Context(out=tmp_path, seed=0, task=Task()),
        run=Work(ValueError("it must not run")),
    )
    assert copy.cached
    assert (copy.manifest.step, copy.manifest.pass_config) == ("renamed", {"name": "renamed"})
    assert manifest.read(tmp_path / "01-work").step == "work"


def test_looking_changes_nothing(tmp_path: Path) -> None:
    do(tmp_path, Work())
    (tmp_path / STAGING / "of another run").mkdir(parents=True)
    store = Store(tmp_path)
    assert store.look("k", tmp_path / "elsewhere") is not None
    assert store.look("other", tmp_path / "01-work") is None
    assert (tmp_path / STAGING / "of another run").exists()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", ""])
def test_a_manifest_cannot_name_a_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    made = do(tmp_path, Work())
    path = made.artifact.root / manifest.FILE
    path.write_text(path.read_text().replace('"model.onnx"', f'"{name}"'))
    with pytest.raises(UsageError, match="not a manifest"):
        manifest.read(made.artifact.root)


def test_memory_that_runs_out_is_no_bug(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="ran out of memory"):
        do(tmp_path, Work(MemoryError()))


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / STAGING / "half").mkdir(parents=True)
    do(tmp_path, Work())
    assert not (tmp_path / STAGING).exists()


def test_the_cache_key_depends_on_content_not_order() -> None:
    assert cache_key(a=1, b={"x": 1, "y": 2}) == cache_key(b={"y": 2, "x": 1}, a=1)
    assert cache_key(a=1) != cache_key(a=2)


def test_ctrl_c_while_staging_is_cleared_leaves_no_staging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt that comes a moment after a step was put in place."""

    def interrupted(_: Store) -> None:
        raise KeyboardInterrupt

    def run() -> None:
        with locked(tmp_path, tmp_path):
            context = Context(out=tmp_path, seed=0, task=Task())
            store, folder = Store(tmp_path), tmp_path / "01-work"
            monkeypatch.setattr(Store, "clear", interrupted)
            make(store, folder, step="work", config={}, key="k", context=context, run=Work())

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / STAGING).exists()
    assert (tmp_path / "01-work" / manifest.FILE).exists()
