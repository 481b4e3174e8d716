"""A measurement is read back only where all of it belongs to the same key."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.pipeline.scores import Judged, read_judged, write_judged
from edgekit.pipeline.step import MEASURED, SCORES

FOUND = Judged({"value": 0.5}, np.array([0.0, 1.0]), np.array([2, 3]), None, 7, 8)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_judged(tmp_path, "k", FOUND)
    read = read_judged(tmp_path, "k")
    assert read is not None
    assert read.scores is not None
    np.testing.assert_array_equal(read.scores, [0.0, 1.0])
    assert (read.evaluation, read.macs, read.parity) == ({"value": 0.5}, 7, None)
    assert read_judged(tmp_path, "other") is None


def test_files_of_two_keys_do_not_mix(tmp_path: Path) -> None:
    """A run killed between the two files leaves new scores beside an old measurement."""
    write_judged(tmp_path, "old", FOUND)
    old = (tmp_path / MEASURED).read_bytes()
    write_judged(tmp_path, "new", replace(FOUND, scores=np.array([1.0, 1.0])))
    (tmp_path / MEASURED).write_bytes(old)
    assert read_judged(tmp_path, "old") is None


@pytest.mark.parametrize("file", [MEASURED, SCORES])
@pytest.mark.parametrize("keep", [0, 10, 60])
def test_a_truncated_file_is_as_good_as_none(tmp_path: Path, file: str, keep: int) -> None:
    write_judged(tmp_path, "k", FOUND)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:keep])
    assert read_judged(tmp_path, "k") is None
