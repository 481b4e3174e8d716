"""Post-training quantization in the integer scheme that a target's kernels want."""
