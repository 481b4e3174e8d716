// A stand-in for CUDA's header: what a snippet calls, on the processor's own memory.
#pragma once

#include <cstdlib>
#include <cstring>

enum cudaError { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
typedef enum cudaError cudaError_t;
typedef struct CUstream_st* cudaStream_t;

inline cudaError_t cudaMalloc(void** devPtr, std::size_t size) {
  *devPtr = size > 0 ? std::malloc(size) : nullptr;
  return *devPtr == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* devPtr) {
  std::free(devPtr);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* dst, const void* src, std::size_t count, cudaMemcpyKind) {
  if (dst == nullptr || src == nullptr) return count > 0 ? cudaErrorInvalidValue : cudaSuccess;
  std::memcpy(dst, src, count);
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error";
}
