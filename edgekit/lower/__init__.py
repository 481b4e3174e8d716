"""Lowering: from a captured program to ONNX, and from ONNX to an engine."""
