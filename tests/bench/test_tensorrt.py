"""The TensorRT adapter: what it refuses, and, on a driver made of host memory, what it does."""

import ctypes
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from edgekit.bench.runtimes import cuda
from edgekit.bench.runtimes.tensorrt import TensorRt, TensorRtRtx
from edgekit.errors import UnavailableError, UsageError

DRIVER = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
int gpus = 1, freed = 0, allocated = 0, released = 0;
int cuInit(int f) { return gpus < 0 ? 100 : 0; }
int cuDeviceGetCount(int *n) { *n = gpus; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return i < gpus ? 0 : 101; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "Fake GPU", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)1; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { released++; return 0; }
int cuCtxSetCurrent(void *c) { return 0; }
int cuStreamCreate(void **s, int f) { *s = (void *)7; return 0; }
int cuStreamDestroy_v2(void *s) { return 0; }
int cuStreamSynchronize(void *s) { return s == (void *)7 ? 0 : 400; }
int cuMemAlloc_v2(uint64_t *p, size_t n) {
  if (n > (1u << 30)) return 2;
  *p = (uint64_t)malloc(n); allocated++; return 0;
}
int cuMemFree_v2(uint64_t p) { free((void *)p); freed++; return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t d, void *s, size_t n, void *q)
{ memcpy((void *)d, s, n); return 0; }
int cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *q)
{ memcpy(d, (void *)s, n); return 0; }
int cuGetErrorString(int e, const char **s)
{ *s = e == 2 ? "out of memory" : "no device"; return 0; }
"""


@pytest.fixture(scope="module")
def driver_file(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "cuda.c").write_text(DRIVER, encoding="utf-8")
    target = folder / "libfakecuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, folder / "cuda.c"], check=True)
    return target


@pytest.fixture
def driver(driver_file, monkeypatch):
    monkeypatch.setattr(cuda, "DRIVER", str(driver_file))
    library = ctypes.CDLL(str(driver_file))
    for name in ("freed", "allocated", "released"):
        ctypes.c_int.in_dll(library, name).value = 0
    ctypes.c_int.in_dll(library, "gpus").value = 1
    return lambda name: ctypes.c_int.in_dll(library, name)


class Engine:
    """y = 2 x for a float32 x of shape [n, 4], n at most 8."""

    num_io_tensors = 2

    def __init__(self):
        self.addresses, self.shape = {}, None

    def get_tensor_name(self, place):
        return "xy"[place]

    def get_tensor_dtype(self, _name):
        return "FLOAT"

    def get_tensor_mode(self, name):
        return {"x": "INPUT", "y": "OUTPUT"}[name]

    def create_execution_context(self):
        return self

    def set_input_shape(self, _name, shape):
        self.shape = shape
        return shape[0] <= 8

    def get_tensor_shape(self, _name):
        return self.shape or (-1, 4)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == 7
        count = int(np.prod(self.shape))
        x, y = (
            np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses[name]))
            for name in "xy"
        )
        y[:] = 2 * x
        return True


class Logger:
    ERROR = 1

    def __init__(self, level):
        self.level = level


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, data):
        return Engine() if data == b"engine" else None


@pytest.fixture
def library(monkeypatch):
    """A module in the place of tensorrt; engines are files that say `engine`."""
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.3.0"
    module.Logger, module.Runtime = Logger, Runtime
    module.TensorIOMode = types.SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    module.nptype = {"FLOAT": np.float32}.__getitem__
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    return path


@pytest.mark.parametrize("kind", [TensorRt, TensorRtRtx])
def test_a_missing_module_is_named(kind, monkeypatch, engine):
    monkeypatch.setitem(sys.modules, kind.MODULE, None)
    probe = kind.probe()
    assert not probe.ok
    assert kind.MODULE in probe.reason
    assert kind.PACKAGE in probe.fix
    with pytest.raises(UnavailableError, match=kind.MODULE):
        kind(engine, {}).__enter__()


@pytest.mark.usefixtures("library")
def test_a_missing_driver_is_named(monkeypatch, engine):
    monkeypatch.setattr(cuda, "DRIVER", "libnonesuch.so.1")
    assert "driver is missing" in TensorRt.probe().reason
    with pytest.raises(UnavailableError, match="driver is missing"):
        TensorRt(engine, {}).__enter__()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("count", "says"), [(0, "no GPU"), (-1, "no device")])
def test_a_missing_gpu_is_named(driver, engine, count, says):
    driver("gpus").value = count
    assert says in TensorRt.probe().reason
    with pytest.raises(UnavailableError, match=says):
        TensorRt(engine, {}).__enter__()


@pytest.mark.usefixtures("library", "driver")
def test_the_probe_names_version_and_gpu():
    assert TensorRt.probe().reason == "tensorrt 10.3.0 on Fake GPU (8.7)."


@pytest.mark.usefixtures("library")
def test_an_engine_runs_and_everything_is_freed(driver, engine):
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    (engine.parent / "model.json").write_text('{"version": "10.3.0"}', encoding="utf-8")
    with TensorRt(engine, {"threads": 1}) as runtime:
        for _ in range(3):
            np.testing.assert_array_equal(runtime.infer(feeds)["y"], 2 * feeds["x"])
        assert driver("allocated").value == 2  # memory is kept from one call to the next
        run = runtime.bind(feeds)
        run()
        runtime.synchronize()
        assert runtime.options["gpu"] == "Fake GPU (8.7)"
        assert runtime.options["build"] == {"version": "10.3.0"}
        assert runtime.inputs[0].shape == ("x_0", 4)
    assert driver("freed").value == 2
    assert driver("released").value == 1


@pytest.mark.usefixtures("library", "driver")
def test_a_shape_outside_the_profile_names_the_input(engine):
    with TensorRt(engine, {}) as runtime, pytest.raises(UsageError, match="'x'"):
        runtime.bind({"x": np.zeros((9, 4), np.float32)})


@pytest.mark.usefixtures("library")
def test_an_engine_of_another_version_is_named_and_freed(driver, engine):
    engine.write_bytes(b"something else")
    with pytest.raises(UsageError, match=r"cannot load the engine .*model\.engine"):
        TensorRt(engine, {}).__enter__()
    assert driver("released").value == 1


@pytest.mark.usefixtures("driver")
def test_the_drivers_errors_are_said_in_its_words():
    gpu = cuda.Cuda()
    with pytest.raises(UnavailableError, match="out of memory"):
        gpu.allocate(1 << 31)
    gpu.close()
    with pytest.raises(UnavailableError, match="no device"):
        cuda.Cuda(5)


def test_unknown_options_are_refused(engine):
    with pytest.raises(UsageError, match="'stream'"):
        TensorRt(engine, {"stream": 1})
