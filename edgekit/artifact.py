"""An artifact: a model in a folder of its own, with a content hash that names what it computes.

This module imports neither torch nor onnx: an artifact can be listed, hashed and copied on a
machine that can run nothing.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgekit.errors import UsageError

Format = Literal["pt2", "onnx", "tensorrt", "tensorrt-rtx"]
FORMAT_OF_SUFFIX: dict[str, Format] = {".pt2": "pt2", ".onnx": "onnx"}
NAME_MAP = "names.json"
SNIPPETS = frozenset({"infer.py", "infer.cpp"})
# They describe a model: no part of what it computes, and not shipped.
BESIDE = frozenset({NAME_MAP, *SNIPPETS})


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not a file inside the artifact's folder")
    return name


# A manifest may come from a stranger: what it names must not lead out of its folder.
FileName = Annotated[str, AfterValidator(_inside)]
Dim = Annotated[int | str, Field(description="a size, or the name of a dynamic dimension")]


class TensorSpec(BaseModel):
    """Name, dtype and shape of one model input or output.

    Attributes:
        name: the tensor's name, the same in every format.
        dtype: NumPy's name of the dtype, such as `float32` or `int64`.
        shape: sizes; a dynamic dimension is its name (`batch`) or expression (`32*h`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class Artifact(BaseModel):
    """A model in a folder: what it is, what goes in and out, and where it came from.

    Attributes:
        root: the folder. Not part of the artifact's identity.
        format: `pt2` (a torch.export program), `onnx`, or an engine.
        model: the model file's name inside `root`.
        files: every file that belongs to the artifact, relative to `root`.
        inputs: what goes in, in order.
        outputs: what comes out, in order.
        content_hash: SHA-256 (hex) of what is computed, independent of time and place.
        parents: content hashes of the artifacts this one was made from.
        made_by: the kind of the pass that made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Field(exclude=True)
    format: Format
    model: FileName
    files: tuple[FileName, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    content_hash: str
    parents: tuple[str, ...] = ()
    made_by: str

    @property
    def path(self) -> Path:
        """Where the model file lies."""
        return self.root / self.model

    @property
    def size_bytes(self) -> int:
        """What must be shipped: the model file and its external data, in bytes."""
        return sum((self.root / f).stat().st_size for f in self.files if f not in BESIDE)

    def intact(self) -> bool:
        """Whether the files are still what the content hash says.

        Raises:
            UsageError: a file is missing or is a broken archive.
        """
        files = [self.root / f for f in self.files if f not in BESIDE]
        return content_hash(files) == self.content_hash

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        model: str,
        format: Format,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        made_by: str,
        parents: tuple["Artifact", ...] = (),
        extra_files: tuple[str, ...] = (),
    ) -> "Artifact":
        """Describe the files that a pass wrote into `root`, and hash them."""
        files = (model, *extra_files)
        return cls(
            root=root,
            format=format,
            model=model,
            files=files,
            inputs=inputs,
            outputs=outputs,
            content_hash=content_hash([root / f for f in files if f not in BESIDE]),
            parents=tuple(p.content_hash for p in parents),
            made_by=made_by,
        )


def content_hash(paths: list[Path]) -> str:
    """Hash what files say, not when they were written.

    A zip archive (`.pt2`) is hashed member by member, so that its time stamps and alignment do not
    count; any other file is hashed whole. File names count, their folder does not.

    Args:
        paths: the files, in a meaningful order.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        UsageError: a file is missing or is a broken archive.
    """
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode())
        try:
            for chunk in _canonical_chunks(path):
                total.update(chunk)
        except FileNotFoundError as e:
            raise UsageError(f"{path} does not exist.", "Check the path.") from e
        except zipfile.BadZipFile as e:
            raise UsageError(f"{path} is a truncated or broken archive.", "Make it again.") from e
    return total.hexdigest()


def _canonical_chunks(path: Path) -> Iterator[bytes]:
    if path.suffix == ".pt2":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                # The archive's own name is its top folder and is not content; neither is the id
                # that torch draws from it.
                inner = name.split("/", 1)[-1]
                if inner in {".data/serialization_id", "byteorder"}:
                    continue
                yield inner.encode()
                with archive.open(name) as member:
                    while chunk := member.read(1 << 20):
                        yield chunk
        return
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
