"""Training parameters -> deployed parameters, and branches -> their sum."""

from migan_jax.layers import effective_kernel
from migan_jax.layers import sum_branches

_KERNELS = ('branches', 'branch_sum', 'kernel')


def _map_kernels(params, function):
    """Replaces every convolution kernel's parameters by `function(of them)`."""
    result = {}
    for name, value in params.items():
        if not isinstance(value, dict):
            result[name] = value
        elif len(value) == 1 and next(iter(value)) in _KERNELS:
            result[name] = function(value)
        else:
            result[name] = _map_kernels(value, function)
    return result


def fuse(params):
    """Parameters of a deployed generator (`ConvSpec(fused=True)`), equal output.

    Sums the branches and divides by the norm once, so that the deployed network
    does neither.

    Args:
      params: nested dict of a generator in any training form.

    Returns:
      nested dict with a `kernel` [kh, kw, ci, co] per convolution.
    """
    return _map_kernels(params, lambda kernel: {'kernel': effective_kernel(kernel)})


def collapse_branches(params):
    """Parameters with `branches` [n, ...] replaced by `branch_sum` [...].

    The effective kernels and, under `steps.make_optimizer`, the training
    trajectory stay the same; the split into branches is lost.
    """
    def collapse(kernel):
        if 'branches' in kernel:
            return {'branch_sum': sum_branches(kernel['branches'])}
        return kernel
    return _map_kernels(params, collapse)
