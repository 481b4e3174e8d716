"""Building engines with TensorRT's library alone, here or on a device that has no more."""
