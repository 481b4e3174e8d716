"""A timing cache belongs to one version and one GPU."""

from pathlib import Path

import pytest

from edgekit.bench.engine import library, timing
from edgekit.errors import UsageError

HERE = library.available("tensorrt-rtx")[0]


def test_versions_and_gpus_have_their_own_file(tmp_path: Path) -> None:
    files = {
        timing.cache_file(tmp_path, version, gpu)
        for version in ("10.3.0", "10.3.1")
        for gpu in ("NVIDIA Orin (8.7)", "NVIDIA GeForce RTX 4090 (8.9)")
    }
    assert len(files) == 4
    one = timing.cache_file(tmp_path, "10.3.0", "../NVIDIA Orin (8.7)")
    assert one.name == "tensorrt-10.3.0-..-nvidia-orin-8.7.cache"
    assert one.parent == tmp_path


def test_a_file_is_no_folder_of_caches(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(UsageError, match="is no folder"):
        timing.cache_file(tmp_path / "cache", "10.3.0", "Orin")


@pytest.mark.skipif(not HERE, reason="tensorrt-rtx is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_calls_with_the_real_library(tmp_path: Path) -> None:
    """TensorRT-RTX has TensorRT's interface here, and says that it does nothing."""
    trt = library.load("tensorrt-rtx")
    builder = library.make_builder(trt, "tensorrt-rtx", library.logger(trt))
    config, path = builder.create_builder_config(), tmp_path / "new" / "a.cache"
    assert timing.use_cache(config, path) is False
    timing.keep_cache(config, path)
    assert path.stat().st_size > 0
    assert timing.use_cache(builder.create_builder_config(), path) is True
