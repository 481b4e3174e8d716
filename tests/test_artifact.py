"""An artifact's content hash names what is computed, not when or where it was written."""

import zipfile
from pathlib import Path

import pytest

from edgekit.artifact import Artifact, TensorSpec, content_hash
from edgekit.errors import UsageError

SPEC = TensorSpec(name="x", dtype="float32", shape=("batch", 4))


def _archive(path: Path, top: str, *, weight: bytes, stamp: tuple[int, ...]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data/weight", weight), ("models/model.json", b"{}")):
            archive.writestr(zipfile.ZipInfo(f"{top}/{name}", stamp), content)  # type: ignore[arg-type]
        archive.writestr(f"{top}/.data/serialization_id", top)


def test_an_archive_is_hashed_by_its_members_not_its_name_or_time(tmp_path: Path) -> None:
    for folder, top, stamp in (
        ("a", "one", (2020, 1, 1, 0, 0, 0)),
        ("b", "two", (2026, 2, 2, 2, 2, 2)),
    ):
        (tmp_path / folder).mkdir()
        _archive(tmp_path / folder / "model.pt2", top, weight=b"1234", stamp=stamp)
    one, two = (content_hash([tmp_path / f / "model.pt2"]) for f in "ab")
    assert one == two
    _archive(tmp_path / "b" / "model.pt2", "two", weight=b"1235", stamp=(2026, 2, 2, 2, 2, 2))
    assert content_hash([tmp_path / "b" / "model.pt2"]) != one


def test_a_plain_file_is_hashed_whole_and_by_name(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"model")
    assert content_hash([tmp_path / "a.onnx"]) != content_hash([tmp_path / "b.onnx"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_truncated_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.pt2 is a truncated"):
        content_hash([path])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.onnx does not exist"):
        content_hash([tmp_path / "gone.onnx"])


def test_size_counts_external_data_and_not_the_name_map(tmp_path: Path) -> None:
    for name, length in (("model.onnx", 10), ("weights.bin", 100), ("names.json", 1000)):
        (tmp_path / name).write_bytes(b"x" * length)
    artifact = Artifact.create(
        tmp_path,
        model="model.onnx",
        format="onnx",
        inputs=(SPEC,),
        outputs=(SPEC,),
        made_by="test",
        extra_files=("weights.bin", "names.json"),
    )
    assert artifact.size_bytes == 110
    assert str(SPEC) == "x: float32[batch, 4]"
