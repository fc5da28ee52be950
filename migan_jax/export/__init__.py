"""Models as files for other frameworks.  PyTorch and ONNX are imported here only."""

from migan_jax import triton_guard

triton_guard.load_beside_tensorflow()
