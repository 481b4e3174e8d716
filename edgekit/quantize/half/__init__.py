"""Half precision in the ONNX graph: casts at boundaries, and a guard for what overflows."""
