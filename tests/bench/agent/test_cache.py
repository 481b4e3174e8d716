"""Files by hash: what is dropped, what is kept, and what a full disk does."""

import errno
import hashlib
import os

import pytest

from edgekit.bench.agent.cache import SPARE_BYTES, Cache, cache_root, disk_errors
from edgekit.bench.agent.wire import AgentError


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def fill(tmp_path):
    """Return a function that puts files of 100 bytes into the folder, oldest first."""

    def make(count):
        found = []
        tmp_path.mkdir(exist_ok=True)
        for place in range(count):
            data = bytes([place]) * 100
            path = tmp_path / sha(data)
            path.write_bytes(data)
            os.utime(path, (1000 + place, 1000 + place))
            found.append(path)
        return found

    return make


def cache(folder, limit=1000, free=1 << 40):
    return Cache(folder, limit, lambda _: free)


def test_the_file_used_longest_ago_goes_first(tmp_path, fill):
    files = fill(10)
    cache(tmp_path).make_room(250)
    assert [path.exists() for path in files] == [False] * 3 + [True] * 7


def test_a_file_that_the_session_has_named_stays(tmp_path, fill):
    files = fill(10)
    held = cache(tmp_path)
    assert held.missing({files[0].name: 100, files[2].name: 100}) == []
    held.make_room(250)
    assert [path.exists() for path in files] == [True, False, True, False, False] + [True] * 5


def test_a_file_that_was_asked_for_counts_as_used(tmp_path, fill):
    files = fill(10)
    cache(tmp_path).missing({files[0].name: 100})
    cache(tmp_path).make_room(50)  # another session
    assert files[0].exists()
    assert not files[1].exists()


def test_what_the_session_needs_may_exceed_the_limit(tmp_path, fill):
    files = fill(3)
    held = cache(tmp_path, limit=200)
    held.missing({path.name: 100 for path in files})
    held.make_room(1000)
    assert all(path.exists() for path in files)


def test_old_files_make_room_on_a_disk_that_is_nearly_full(tmp_path, fill):
    files = fill(4)
    held = Cache(
        tmp_path, 1 << 40, lambda folder: SPARE_BYTES + 400 - 100 * len(list(folder.iterdir()))
    )
    held.make_room(200)
    assert [path.exists() for path in files] == [False, False, True, True]
    with pytest.raises(AgentError, match="disk is full") as caught:
        held.make_room(500)
    assert caught.value.kind == "disk"
    assert str(tmp_path) in caught.value.message
    assert f"{SPARE_BYTES + 400} bytes free" in caught.value.message


def test_a_file_of_the_wrong_size_or_content_counts_as_missing(tmp_path, fill):
    first, second = fill(2)
    first.write_bytes(b"short")
    second.write_bytes(b"x" * 100)
    named = {first.name: 100, second.name: 100}
    assert cache(tmp_path).missing(named) == [first.name, second.name]
    assert list(tmp_path.iterdir()) == []


def test_all_pieces_are_taken_even_where_there_is_no_room(tmp_path):
    pieces = iter([b"a", b"b", b"c"])
    with pytest.raises(AgentError, match="disk is full"):
        cache(tmp_path, free=5).store(sha(b"abc"), 3, pieces)
    assert list(pieces) == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_interrupted_leaves_nothing(tmp_path):
    def pieces():
        yield b"a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path).store(sha(b"abc"), 3, pieces())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EROFS, "cannot write")],
)
def test_errors_of_the_disk_name_the_folder(tmp_path, number, words):
    with pytest.raises(AgentError, match=words) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.kind == "disk"
    assert str(tmp_path) in caught.value.message


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "edgekit"
