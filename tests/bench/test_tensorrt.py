"""The TensorRT adapter: what it refuses, and, on a driver made of host memory, what it does."""

import ctypes
import dataclasses
import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from edgekit.bench import Protocol, Subject, bench
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
int cuMemHostAlloc(void **p, size_t n, unsigned f)
{ *p = malloc(n); allocated++; return 0; }
int cuMemFreeHost(void *p) { free(p); freed++; return 0; }
/* An event's time is the number of the step it was recorded at, in milliseconds. */
int ticks = 0, capturing = 0, capturable = 1, launched = 0;
int cuEventCreate(void **e, unsigned f) { *e = calloc(1, sizeof(int)); allocated++; return 0; }
int cuEventRecord(void *e, void *s) { *(int *)e = ++ticks; return 0; }
int cuEventElapsedTime(float *t, void *a, void *b) { *t = *(int *)b - *(int *)a; return 0; }
int cuEventDestroy_v2(void *e) { free(e); freed++; return 0; }
int cuStreamBeginCapture_v2(void *s, int mode) { capturing = mode; return 0; }
int cuStreamEndCapture(void *s, void **g)
{ capturing = 0; *g = capturable ? (void *)3 : 0; return capturable ? 0 : 901; }
int cuGraphInstantiateWithFlags(void **e, void *g, uint64_t f) { *e = (void *)4; return 0; }
int cuGraphDestroy(void *g) { return 0; }
int cuGraphExecDestroy(void *e) { return 0; }
int cuGraphLaunch(void *e, void *s) { launched++; return e == (void *)4 ? 0 : 400; }
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
    for name in ("freed", "allocated", "released", "launched"):
        ctypes.c_int.in_dll(library, name).value = 0
    for name in ("gpus", "capturable"):
        ctypes.c_int.in_dll(library, name).value = 1
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
        return Engine()

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
    facts = {"version": "10.3.0", "compute_capabilities": ["8.7"]}
    (engine.parent / "model.engine.json").write_text(json.dumps(facts), encoding="utf-8")
    with TensorRt(engine, {"threads": 1}) as runtime:
        for factor in range(3):
            inputs = {"x": factor * feeds["x"]}
            np.testing.assert_array_equal(runtime.infer(inputs)["y"], 2 * inputs["x"])
            assert driver("allocated").value == 8  # memory is kept from one call to the next
        np.testing.assert_array_equal(runtime.infer({"x": feeds["x"][:1]})["y"], 2 * feeds["x"][:1])
        assert driver("freed").value == 8
        run = runtime.bind(feeds)
        run()
        runtime.synchronize()
        assert runtime.options["gpu"] == "Fake GPU (8.7)"
        assert runtime.options["build"] == facts
        assert runtime.options["cuda_graph"] is False
        assert runtime.inputs[0].shape == ("x_0", 4)
    assert driver("freed").value == driver("allocated").value
    assert driver("released").value == 4  # of the engine, and of three bindings


@pytest.mark.usefixtures("library", "driver")
def test_bindings_share_no_memory(engine):
    one, two = (np.full((1, 4), value, np.float32) for value in (1, 5))
    with TensorRt(engine, {}) as runtime:
        first, second = runtime.bind({"x": one}), runtime.bind({"x": two})
        first()
        second()
        np.testing.assert_array_equal(first.outputs["y"], 2 * one)
        np.testing.assert_array_equal(second.outputs["y"], 2 * two)


@pytest.mark.usefixtures("library", "driver")
def test_events_tell_copies_from_computing(engine):
    feeds = {"x": np.ones((1, 4), np.float32)}
    with TensorRt(engine, {}) as runtime:
        parts = runtime.bind(feeds).split()
        assert {name: parts[name] for name in ("h2d", "compute", "d2h")} == {
            "h2d": 1.0,
            "compute": 1.0,
            "d2h": 1.0,
        }
        assert parts["enqueue"] > 0
    with TensorRt(engine, {"transfers": False}) as runtime:
        run = runtime.bind(feeds)
        run()
        assert set(run.split()) == {"enqueue", "compute"}
        np.testing.assert_array_equal(run.read()["y"], 2 * feeds["x"])


@pytest.mark.usefixtures("library")
def test_a_cuda_graph_is_launched_in_place_of_the_calls(driver, engine):
    feeds = {"x": np.ones((1, 4), np.float32)}
    with TensorRt(engine, {"cuda_graph": True}) as runtime:
        run = runtime.bind(feeds)
        run()
        run()
        assert driver("launched").value == 2
        assert set(run.split()) == {"enqueue", "graph"}
        assert runtime.options["cuda_graph"] is True
    driver("capturable").value = 0
    with (
        TensorRt(engine, {"cuda_graph": True}) as runtime,
        pytest.raises(UnavailableError, match="cannot be recorded"),
    ):
        runtime.bind(feeds)


@pytest.mark.usefixtures("library", "driver")
@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"version": "10.7.0"}, r"10\.7\.0, and 10\.3\.0 is here"),
        ({"version": "10.3.0", "compute_capabilities": ["8.9"]}, r"8\.9, and this GPU is Fake"),
        ([1], "says nothing"),
    ],
)
def test_an_engine_of_another_version_or_gpu_is_refused_before_it_is_loaded(
    engine, monkeypatch, facts, says
):
    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", lambda *_: pytest.fail("loaded"))
    (engine.parent / "model.engine.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UsageError, match=says):
        TensorRt(engine, {}).__enter__()


@pytest.mark.usefixtures("library", "driver")
def test_a_version_compatible_engine_is_not_refused(engine):
    facts = {"version": "10.1.0", "flags": ["VERSION_COMPATIBLE"]}
    (engine.parent / "model.engine.json").write_text(json.dumps(facts), encoding="utf-8")
    with TensorRt(engine, {}) as runtime:
        assert runtime.options["build"]["version"] == "10.1.0"


@pytest.mark.usefixtures("library", "driver")
def test_the_benchmark_shows_where_the_gpus_time_goes(engine):
    subject = Subject("m", "tensorrt", engine, {"x": np.ones((1, 4), np.float32)})
    protocol = dataclasses.replace(
        Protocol.quick(), warmup_s=0.01, warmup_max_s=0.02, block_s=0.002, min_s=0.01, max_s=0.02
    )
    found = bench([subject], protocol).subject("m").device_ms
    assert list(found) == ["enqueue", "h2d", "compute", "d2h"]
    assert found["compute"].value == 1.0
    assert found["compute"].label == "measured"


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
