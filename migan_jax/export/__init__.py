"""Models as files for other frameworks.  PyTorch and ONNX are imported here only."""
