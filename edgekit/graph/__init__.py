"""The graph: capture, safe storage, train/eval switch, cost, and reading ONNX.

Nothing is imported here, so that the command line starts without torch; import the modules.
"""
