"""A timing cache belongs to one version and one GPU."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.bench.engine import library, timing
from edgekit.bench.engine.build import Built, Plan, build
from edgekit.bench.engine.options import BuildOptions
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


def test_every_name_is_one_that_a_device_may_send() -> None:
    for gpu in ("NVIDIA Orin (8.7)", "../Größe_1+x (8.9)", ""):
        assert timing.is_cache_name(timing.cache_file(Path(), "10.3.0+cuda_12", gpu).name)
    assert not timing.is_cache_name("tensorrt-a/../b.cache")


def test_a_file_is_no_folder_of_caches(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(UsageError, match="is no folder"):
        timing.check_folder(tmp_path / "cache")
    with pytest.raises(UsageError, match="/proc/timings cannot be written"):
        timing.check_folder(Path("/proc/timings"))
    timing.check_folder(tmp_path / "new" / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


class Config:
    """A builder's configuration whose timings are three bytes."""

    def __init__(self) -> None:
        self.create_timing_cache = bytes
        self.set_timing_cache = lambda *_: True

    def get_timing_cache(self) -> "Config":
        return self

    def serialize(self) -> bytes:
        return b"abc"


class Here:
    """Just enough of TensorRT for a build on this machine that ends well."""

    __version__ = "10.3.0"
    ProfilingVerbosity = SimpleNamespace(DETAILED=1)

    def __init__(self, before: Callable[[], object]) -> None:
        self._before = before

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, *_: object) -> bytes:
        self._before()
        return b"engine"


def build_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, before: Callable[[], object]
) -> Built:
    trt, log = Here(before), SimpleNamespace(warnings=[], errors=[])
    monkeypatch.setattr(library, "load", lambda _: trt)
    monkeypatch.setattr(library, "logger", lambda _: log)
    monkeypatch.setattr(library, "make_builder", lambda *_: trt)
    monkeypatch.setattr(library, "parse", lambda *_: library.Parsed(None, None, (), ()))
    monkeypatch.setattr(timing, "layers_of", lambda *_: None)
    monkeypatch.setattr("edgekit.bench.engine.build.held", lambda *_: nullcontext())
    monkeypatch.setattr("edgekit.bench.engine.options.apply", lambda *_: ())
    monkeypatch.setattr("edgekit.bench.runtimes.cuda.device_name", lambda: "NVIDIA Orin (8.7)")
    options = BuildOptions(timing_cache=str(folder))
    return build(folder / "net.onnx", Plan("tensorrt", options=options))


def test_an_engine_is_kept_where_its_timings_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tensorrt-10.3.0-nvidia-orin-8.7.cache"
    built = build_with(monkeypatch, tmp_path / "a", lambda: None)
    assert (built.data, built.warnings, built.timing_cache) == (b"engine", (), name)
    assert (tmp_path / "a" / name).read_bytes() == b"abc"

    def in_the_way() -> None:
        (tmp_path / "b" / name).mkdir(parents=True)

    built = build_with(monkeypatch, tmp_path / "b", in_the_way)
    assert built.data == b"engine"
    assert len(built.warnings) == 1
    assert f"{name} could not be kept" in built.warnings[0]


def test_a_folder_that_takes_no_timings_is_found_before_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def built() -> None:
        raise AssertionError("it was built")

    with pytest.raises(UsageError, match="/proc/timings cannot be written"):
        build_with(monkeypatch, Path("/proc/timings"), built)


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
