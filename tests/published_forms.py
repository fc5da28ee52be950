"""Forms of parameters that only comparisons with the published code need."""

from migan_jax.weights import torch_map
from migan_jax.model import fuse
from migan_jax.model import layers


def collapse_branches(params):
    """Parameters with `branches` [n, ...] replaced by `branch_sum` [...].

    The effective kernels and, under `optimizers.make_optimizer`, the training
    trajectory stay the same; the split into branches is lost.
    """
    def collapse(kernel):
        if 'branches' in kernel:
            return {'branch_sum': layers.sum_branches(kernel['branches'])}
        return kernel
    return fuse.map_kernels(params, collapse)


def discriminator_table(resolution, *, branches, depthwise=True):
    """Entries of a discriminator; arguments as in `torch_map.generator_table`."""
    entries = []
    for r in layers.resolutions(resolution):
        path, prefix = (f'b{r}',), f'b{r}'
        if r == resolution:
            entries += torch_map.pointwise(f'{prefix}.fromrgb', (*path, 'fromrgb'), branches)
        entries += torch_map.pointwise(f'{prefix}.skip', (*path, 'skip'), branches, bias=False)
        for conv in ('conv1', 'conv2'):
            entries += torch_map.block(f'{prefix}.{conv}', (*path, conv), branches, depthwise)
    entries += torch_map.block('b4.conv', ('conv',), branches, depthwise)
    for name in ('fc', 'out'):
        entries += [
            torch_map.Entry(f'b4.{name}.weight', ('params', name, 'kernel'), torch_map.DENSE),
            torch_map.Entry(f'b4.{name}.bias', ('params', name, 'bias'), torch_map.PLAIN),
        ]
    return entries
