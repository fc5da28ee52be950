"""Training parameters <-> deployed parameters, and branches -> their sum."""

from collections.abc import Callable, Mapping
import math
from typing import Any

import numpy as np

from migan_jax.model.layers import effective_kernel

_KERNELS = ('branches', 'branch_sum', 'kernel')


def map_kernels(params: Mapping[str, Any], function: Callable[[Mapping[str, Any]], Any]
                ) -> dict[str, Any]:
    """Replaces every convolution kernel's parameters by `function(of them)`."""
    result = {}
    for name, value in params.items():
        if not isinstance(value, dict):
            result[name] = value
        elif len(value) == 1 and next(iter(value)) in _KERNELS:
            result[name] = function(value)
        else:
            result[name] = map_kernels(value, function)
    return result


def fuse(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a deployed generator (`ConvSpec(fused=True)`), equal output.

    Sums the branches and divides by the norm once, so that the deployed network
    does neither.

    Args:
      params: nested dict of a generator in any training form.

    Returns:
      nested dict with a `kernel` [kh, kw, ci, co] per convolution.
    """
    return map_kernels(params, lambda kernel: {'kernel': effective_kernel(kernel)})


def unfold(params: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Training parameters with the effective kernels of deployed ones: fine-tuning.

    A kernel's size is lost when it is normalised, and it decides how fast the kernel
    turns: every output channel gets the norm it has at the start of training,
    sqrt(fan in).  All n branches become the same.  The split into branches and
    the sizes that training had reached can't be recovered.

    Args:
      params: nested dict from `fuse`, or of the published deployed layout.
      like: training parameters of the same generator in any form.

    Returns:
      nested dict of NumPy arrays with the structure of `like`.
    """
    result = {}
    for name, value in like.items():
        if not isinstance(value, dict):
            result[name] = np.array(params[name])
        elif len(value) == 1 and next(iter(value)) in _KERNELS:
            form, = value
            kernel = np.asarray(params[name]['kernel'])
            kernel = kernel * np.float32(math.sqrt(math.prod(kernel.shape[:-1])))
            if form == 'branches':   # sum_i w_i / sqrt(n) with n equal w_i
                n = len(value[form])
                kernel = np.tile(kernel * np.float32(n**-0.5), (n, 1, 1, 1, 1))
            result[name] = {form: kernel}
        else:
            result[name] = unfold(params[name], value)
    return result
