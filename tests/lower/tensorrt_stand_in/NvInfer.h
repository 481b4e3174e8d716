// A stand-in for TensorRT's header: what a snippet calls, with TensorRT 10's names and types, on the
// processor. An "engine" is a text file of lines `in NAME` and `out NAME BYTES_PER_ELEMENT DIMS...`,
// with names in hexadecimal. Running it wants the shape and address of every input, and writes 1, 2,
// 3... into each output: as floats where an element has four bytes, else into its first byte.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <sstream>
#include <string>

#include <cuda_runtime_api.h>

namespace nvinfer1 {

class Dims64 {
 public:
  static constexpr std::int32_t MAX_DIMS{8};
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};
using Dims = Dims64;
using AsciiChar = char;

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
  virtual ~ILogger() = default;
};

struct Tensor {
  bool input = false;
  std::size_t width = 0;
  Dims dims{};
  void* address = nullptr;
};
using Tensors = std::map<std::string, Tensor>;

class IExecutionContext {
 public:
  explicit IExecutionContext(Tensors tensors) : tensors_(std::move(tensors)) {}
  virtual ~IExecutionContext() noexcept = default;

  bool setInputShape(char const* tensorName, Dims const& dims) noexcept {
    const auto found = tensors_.find(tensorName);
    if (found == tensors_.end() || !found->second.input) return false;
    found->second.dims = dims;
    return true;
  }
  Dims getTensorShape(char const* tensorName) const noexcept {
    const auto found = tensors_.find(tensorName);
    return found == tensors_.end() ? Dims{-1, {}} : found->second.dims;
  }
  bool setTensorAddress(char const* tensorName, void* data) noexcept {
    const auto found = tensors_.find(tensorName);
    if (found == tensors_.end()) return false;
    found->second.address = data;
    return true;
  }
  bool enqueueV3(cudaStream_t) noexcept {
    for (auto& [name, tensor] : tensors_) {
      if (tensor.address == nullptr || tensor.dims.nbDims < 0) return false;
      if (tensor.input) continue;
      std::int64_t count = 1;
      for (std::int32_t i = 0; i < tensor.dims.nbDims; ++i) count *= tensor.dims.d[i];
      auto* bytes = static_cast<unsigned char*>(tensor.address);
      for (std::int64_t i = 0; i < count; ++i) {
        if (tensor.width == sizeof(float)) {
          const auto value = static_cast<float>(i + 1);
          std::memcpy(bytes + i * sizeof(float), &value, sizeof(float));
        } else {
          std::memset(bytes + i * tensor.width, 0, tensor.width);
          bytes[i * tensor.width] = static_cast<unsigned char>(i + 1);
        }
      }
    }
    return true;
  }

 private:
  Tensors tensors_;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(Tensors tensors) : tensors_(std::move(tensors)) {}
  virtual ~ICudaEngine() noexcept = default;
  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(tensors_); }

 private:
  Tensors tensors_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& logger) : logger_(logger) {}
  virtual ~IRuntime() noexcept = default;
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    std::istringstream lines(std::string(static_cast<char const*>(blob), size));
    Tensors tensors;
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string kind;
      std::string name;
      std::string code;
      words >> kind >> code;
      for (std::size_t i = 0; i + 1 < code.size(); i += 2) {
        name += static_cast<char>(std::stoi(code.substr(i, 2), nullptr, 16));
      }
      if (kind != "in" && kind != "out") {
        logger_.log(ILogger::Severity::kERROR, "this is no engine");
        return nullptr;
      }
      Tensor tensor;
      tensor.input = kind == "in";
      tensor.dims.nbDims = tensor.input ? -1 : 0;
      words >> tensor.width;
      for (std::int64_t size_of; words >> size_of;) tensor.dims.d[tensor.dims.nbDims++] = size_of;
      tensors[name] = tensor;
    }
    return new ICudaEngine(tensors);
  }

 private:
  ILogger& logger_;
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }

}  // namespace nvinfer1
