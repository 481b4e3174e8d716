"""C++17 snippets: one `main` that opens the model, runs it once and prints what comes out.

Booleans and float16 are bytes and 16-bit patterns there: C++17 has no type for the one in a vector,
and none at all for the other.
"""

from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.artifact import TensorSpec
    from edgekit.lower.snippet import Size, Subject

_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "std::uint16_t",
    "bool": "std::uint8_t",
    **{
        f"{sign}int{bits}": f"std::{sign}int{bits}_t"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_ONNX = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "FLOAT16"}
_OPENVINO_TYPES = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bool": "boolean",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
}
_HEAD = r"""// Runs a model in $title. Build it so:
//   g++ -std=c++17 $flags
$includes

namespace {

// Zeros; put your values there.
template <typename T>
std::vector<T> zeros(const std::vector<std::int64_t>& shape) {
  std::size_t count = 1;
  for (const auto size : shape) count *= static_cast<std::size_t>(size);
  return std::vector<T>(count);
}

template <typename T>
void show(const char* name, const T* values, std::size_t count) {
  std::cout << name << ": " << count << " values";
  for (std::size_t i = 0; i < count && i < 5; ++i) std::cout << ' ' << +values[i];
  std::cout << '\n';
}
$helpers
}  // namespace

int main(int argc, char** argv) try {
  const char* model = argc > 1 ? argv[1] : $file;
$sizes$body
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
"""
_ONNXRUNTIME = r"""  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "infer");
  Ort::Session session(env, model, Ort::SessionOptions());  // Windows: a wide path
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::array<const char*, $in_count> input_names{$in_names};
  const std::array<const char*, $out_count> output_names{$out_names};
  std::vector<Ort::Value> inputs;
$inputs
  const auto outputs =
      session.Run(Ort::RunOptions(), input_names.data(), inputs.data(), inputs.size(),
                  output_names.data(), output_names.size());$outputs"""
_ONNXRUNTIME_IN = r"""
  const std::vector<std::int64_t> shape$i{$shape};
  auto data$i = zeros<$type>(shape$i);  // $name
  inputs.push_back(Ort::Value::CreateTensor(memory, data$i.data(), data$i.size() * sizeof($type),
                                            shape$i.data(), shape$i.size(),
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_$element));
"""
_ONNXRUNTIME_OUT = r"""
  show(output_names[$i], static_cast<const $type*>(outputs[$i].GetTensorRawData()),
       outputs[$i].GetTensorTypeAndShapeInfo().GetElementCount());
"""
_OPENVINO = r"""  ov::Core core;
  // Unless told otherwise OpenVINO computes in bfloat16 where the processor has it.
  auto compiled = core.compile_model(model, "CPU",
                                     ov::hint::inference_precision(ov::element::f32));
  auto request = compiled.create_infer_request();
$inputs
  request.infer();$outputs"""
_OPENVINO_IN = r"""
  const std::vector<std::int64_t> shape$i{$shape};
  auto data$i = zeros<$type>(shape$i);  // $name
  request.set_input_tensor($i, ov::Tensor(ov::element::$element,
                                          ov::Shape(shape$i.begin(), shape$i.end()),
                                          data$i.data()));
"""
_OPENVINO_OUT = r"""
  const auto output$i = request.get_output_tensor($i);
  show($name, static_cast<const $type*>(output$i.data()), output$i.get_size());
"""
_TENSORRT_HELPERS = r"""
void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::cerr << message << '\n';
  }
};

struct GpuMemory {
  explicit GpuMemory(std::size_t size) { check(cudaMalloc(&address, size > 0 ? size : 1)); }
  ~GpuMemory() { cudaFree(address); }
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory& operator=(const GpuMemory&) = delete;
  void* address = nullptr;
};

void set_shape(nvinfer1::IExecutionContext& context, const char* name,
               const std::vector<std::int64_t>& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  if (!context.setInputShape(name, dims)) throw std::runtime_error("a shape does not fit");
}

std::vector<std::int64_t> shape_of(const nvinfer1::IExecutionContext& context, const char* name) {
  const auto dims = context.getTensorShape(name);
  return std::vector<std::int64_t>(dims.d, dims.d + dims.nbDims);
}
"""
_TENSORRT = r"""  std::ifstream file(model, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  Logger logger;
  std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  if (!runtime) throw std::runtime_error("there is no usable GPU");
  std::unique_ptr<nvinfer1::ICudaEngine> engine(
      runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
  if (!engine) throw std::runtime_error("the engine does not load here");
  std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  if (!context) throw std::runtime_error("there is not enough memory on the GPU");
$inputs$outputs
  if (!context->enqueueV3(nullptr)) throw std::runtime_error("the engine failed to run");
  check(cudaDeviceSynchronize());$fetched"""
_TENSORRT_IN = r"""
  const std::vector<std::int64_t> shape$i{$shape};
  const auto data$i = zeros<$type>(shape$i);  // $name
  GpuMemory input$i(data$i.size() * sizeof($type));
  check(cudaMemcpy(input$i.address, data$i.data(), data$i.size() * sizeof($type),
                   cudaMemcpyHostToDevice));
  set_shape(*context, $name, shape$i);
  context->setTensorAddress($name, input$i.address);
"""
_TENSORRT_OUT = r"""
  auto result$i = zeros<$type>(shape_of(*context, $name));
  GpuMemory output$i(result$i.size() * sizeof($type));
  context->setTensorAddress($name, output$i.address);
"""
_TENSORRT_FETCHED = r"""
  check(cudaMemcpy(result$i.data(), output$i.address, result$i.size() * sizeof($type),
                   cudaMemcpyDeviceToHost));
  show($name, result$i.data(), result$i.size());
"""
_PLAIN = ("cstddef", "cstdint", "exception", "iostream", "vector")
_CUDA = "-I/usr/local/cuda/include -L/usr/local/cuda/lib64"


def _headers(own: tuple[str, ...], *more: str) -> str:
    plain = "\n".join(f"#include <{name}>" for name in sorted((*_PLAIN, *more)))
    return "\n".join(f"#include <{name}>" for name in own) + "\n\n" + plain


_NVIDIA = _headers(
    ("NvInfer.h", "cuda_runtime_api.h"), "algorithm", "fstream", "iterator", "memory", "stdexcept"
)
_RUNTIMES = {
    "onnxruntime": (
        "ONNX Runtime",
        "infer.cpp -Ionnxruntime/include -Lonnxruntime/lib -lonnxruntime -o infer",
        _headers(("onnxruntime_cxx_api.h",), "array"),
    ),
    "openvino": (
        "OpenVINO",
        "infer.cpp $(pkg-config --cflags --libs openvino) -o infer",
        _headers(("openvino/openvino.hpp",)),
    ),
    "tensorrt": ("TensorRT", f"infer.cpp {_CUDA} -lnvinfer -lcudart -o infer", _NVIDIA),
    "tensorrt-rtx": (
        "TensorRT for RTX",
        f"infer.cpp {_CUDA} -ltensorrt_rtx -lcudart -o infer",
        _NVIDIA,
    ),
}


def write(subject: "Subject", sizes: "tuple[Size, ...]") -> str:
    """Write the program; its dtypes are checked already."""
    title, flags, includes = _RUNTIMES[subject.runtime]
    nvidia = subject.runtime.startswith("tensorrt")
    values = {
        "title": title,
        "flags": flags,
        "includes": includes,
        "helpers": _TENSORRT_HELPERS if nvidia else "",
        "file": literal(subject.file),
        "sizes": "".join(
            f"  const std::int64_t {s.name} = {s.value};  // {literal(s.dim)}\n" for s in sizes
        ),
        "body": _body(subject, {size.dim: size.name for size in sizes}).rstrip("\n"),
    }
    return Template(_HEAD).substitute(values)


def _body(subject: "Subject", constants: dict[str, str]) -> str:
    outer, inner, outer_of, last = {
        "onnxruntime": (_ONNXRUNTIME, _ONNXRUNTIME_IN, _ONNXRUNTIME_OUT, ""),
        "openvino": (_OPENVINO, _OPENVINO_IN, _OPENVINO_OUT, ""),
    }.get(subject.runtime, (_TENSORRT, _TENSORRT_IN, _TENSORRT_OUT, _TENSORRT_FETCHED))
    elements = _OPENVINO_TYPES if subject.runtime == "openvino" else {}

    def each(text: str, specs: "tuple[TensorSpec, ...]", *, shaped: bool = False) -> str:
        return "".join(
            Template(text).substitute(
                i=place,
                name=literal(spec.name),
                type=_TYPES[spec.dtype],
                element=elements.get(spec.dtype, _ONNX.get(spec.dtype, spec.dtype.upper())),
                shape=_shape(spec, constants) if shaped else "",
            )
            for place, spec in enumerate(specs)
        )

    return Template(outer).substitute(
        in_count=len(subject.inputs),
        out_count=len(subject.outputs),
        in_names=", ".join(literal(spec.name) for spec in subject.inputs),
        out_names=", ".join(literal(spec.name) for spec in subject.outputs),
        inputs=each(inner, subject.inputs, shaped=True),
        outputs=each(outer_of, subject.outputs),
        fetched=each(last, subject.outputs),
    )


def _shape(spec: "TensorSpec", constants: dict[str, str]) -> str:
    return ", ".join(str(d) if isinstance(d, int) else constants[d] for d in spec.shape)


def literal(text: str) -> str:
    r"""Write a C++ string literal that holds printable ASCII only.

    Other bytes are octal escapes of three digits: those end by themselves, and hexadecimal ones do
    not. `?` is one of them because of trigraphs.

    >>> print(literal('a"\n' + chr(233)))
    "a\042\012\303\251"
    """
    plain = {c for c in range(0x20, 0x7F) if chr(c) not in '"\\?'}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'
