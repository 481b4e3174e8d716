"""Python snippets: `load()` opens the model, `infer(model, inputs)` runs it on NumPy arrays."""

from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.artifact import TensorSpec
    from edgekit.lower.snippet import Size, Subject

_HEAD = '''\
"""Runs a model in $title. Needs: pip install $packages"""

from pathlib import Path

import numpy as np
$imports

MODEL = Path(__file__).parent / $file
OUTPUTS = $outputs$constants


'''
_TAIL = '''

def example():
    """Inputs of zeros; yours have these names, shapes and dtypes."""
    return {
$feeds
    }


if __name__ == "__main__":
    for name, value in infer(load(), example()).items():
        print(name, value.dtype, value.shape, value.ravel()[:5])
'''
_ONNXRUNTIME = '''\
def load():
    """Open the model once; on a GPU name its execution provider first."""
    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


def infer(model, inputs):
    """Run on arrays by input name; returns arrays by output name."""
    return dict(zip(OUTPUTS, model.run(OUTPUTS, inputs)))
'''
_OPENVINO = '''\
def load():
    """Compile the model once."""
    # Unless told otherwise OpenVINO computes in bfloat16 where the processor has it.
    return openvino.Core().compile_model(MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def infer(model, inputs):
    """Run on arrays by input name; returns arrays by output name."""
    found = model([inputs[name] for name in INPUTS])
    return {name: found[place] for place, name in enumerate(OUTPUTS)}
'''
_TENSORRT = '''\
def check(result):
    """Give what a CUDA call returns, or raise its error."""
    if result[0] != cudart.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {result[0]}")
    return result[1] if len(result) > 1 else None


def load():
    """Open the engine once; it runs on the GPU and the version that it was built for."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(MODEL.read_bytes())
    if engine is None:
        raise RuntimeError(f"{MODEL} does not load here.")
    return engine, engine.create_execution_context()


def infer(model, inputs):
    """Run on arrays by input name; returns arrays by output name.

    A program that runs often keeps stream and memory from one run to the next.
    """
    engine, context = model
    stream, memory, outputs = check(cudart.cudaStreamCreate()), [], {}

    def place(name, array):
        memory.append(check(cudart.cudaMalloc(max(1, array.nbytes))))
        context.set_tensor_address(name, int(memory[-1]))
        return memory[-1]

    try:
        for name, array in inputs.items():
            array = np.ascontiguousarray(array)
            if not context.set_input_shape(name, array.shape):
                raise ValueError(f"{name}: the engine was not built for {array.shape}.")
            there = place(name, array)
            to_gpu = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
            check(cudart.cudaMemcpy(there, array.ctypes.data, array.nbytes, to_gpu))
        for name in OUTPUTS:
            dtype = trt.nptype(engine.get_tensor_dtype(name))
            outputs[name] = np.empty(tuple(context.get_tensor_shape(name)), dtype)
        places = {name: place(name, array) for name, array in outputs.items()}
        if not context.execute_async_v3(int(stream)):
            raise RuntimeError("The engine failed to run.")
        check(cudart.cudaStreamSynchronize(stream))
        for name, array in outputs.items():
            to_host = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
            check(cudart.cudaMemcpy(array.ctypes.data, places[name], array.nbytes, to_host))
    finally:
        for address in memory:
            check(cudart.cudaFree(address))
        check(cudart.cudaStreamDestroy(stream))
    return outputs
'''
_CUDA = "from cuda.bindings import runtime as cudart"
_RUNTIMES = {
    "onnxruntime": ("ONNX Runtime", "numpy onnxruntime", "import onnxruntime", _ONNXRUNTIME),
    "openvino": ("OpenVINO", "numpy openvino", "import openvino", _OPENVINO),
    "tensorrt": (
        "TensorRT",
        "numpy tensorrt cuda-python",
        f"import tensorrt as trt\n{_CUDA}",
        _TENSORRT,
    ),
    "tensorrt-rtx": (
        "TensorRT for RTX",
        "numpy tensorrt-rtx cuda-python",
        f"import tensorrt_rtx as trt\n{_CUDA}",
        _TENSORRT,
    ),
}


def write(subject: "Subject", sizes: "tuple[Size, ...]") -> str:
    """Write the program; its dtypes are checked already."""
    title, packages, imports, body = _RUNTIMES[subject.runtime]
    names = {size.dim: size.name.upper() for size in sizes}
    constants = [f"{size.name.upper()} = {size.value}  # {_text(size.dim)}" for size in sizes]
    if subject.runtime == "openvino":
        constants.insert(0, f"INPUTS = {_texts(subject.inputs)}")
    return Template(_HEAD + body + _TAIL).substitute(
        title=title,
        packages=packages,
        imports=imports,
        file=_text(subject.file),
        outputs=_texts(subject.outputs),
        constants="".join(f"\n{line}" for line in constants),
        feeds="\n".join(_feed(spec, names) for spec in subject.inputs),
    )


def _feed(spec: "TensorSpec", names: dict[str, str]) -> str:
    sizes = [str(d) if isinstance(d, int) else names[d] for d in spec.shape]
    shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
    return f'        {_text(spec.name)}: np.zeros({shape}, "{spec.dtype}"),'


def _texts(specs: "tuple[TensorSpec, ...]") -> str:
    return f"[{', '.join(_text(spec.name) for spec in specs)}]"


def _text(text: str) -> str:
    """Write a Python string literal of printable ASCII."""
    plain = text.isascii() and text.isprintable() and not set(text) & {'"', "\\"}
    return f'"{text}"' if plain else ascii(text)
