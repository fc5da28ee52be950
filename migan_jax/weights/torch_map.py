"""The table between PyTorch state dicts and Flax parameters.

One list of entries, read in both directions.  It covers the training layouts of
generator and discriminator (branches w0, w1, ... or one weight) and the deployed
layout of the generator, which is what the published weights and mobile apps use.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from migan_jax.model import topology
from migan_jax.model.layers import resolutions

# How an array changes between the two sides (see `_to_flax`).
CONV = 'conv'      # OIHW <-> HWIO
DENSE = 'dense'    # [out, in] <-> [in, out]
PLAIN = 'plain'    # same on both sides


class Entry(NamedTuple):
    """One tensor: its torch name, its Flax path (collection first) and its kind.

    `branch` is the index into the leading axis of the Flax array, or None.
    """
    torch: str
    path: tuple[str, ...]
    kind: str
    branch: int | None = None


def _kernel(torch_prefix, path, branches):
    """Entries of one kernel; `branches` 0 for a plain weight."""
    path = ('params', *path)
    if not branches:
        return [Entry(f'{torch_prefix}.weight', (*path, 'kernel'), CONV)]
    return [Entry(f'{torch_prefix}.w{i}', (*path, 'branches'), CONV, i)
            for i in range(branches)]


def pointwise(torch_prefix: str, path: tuple[str, ...], branches: int, bias: bool = True
              ) -> list[Entry]:
    entries = _kernel(torch_prefix, (*path, 'pointwise'), branches)
    if bias:
        entries.append(Entry(f'{torch_prefix}.bias', ('params', *path, 'bias'), PLAIN))
    return entries


def block(torch_prefix: str, path: tuple[str, ...], branches: int, depthwise: bool,
          noise: bool = False, fused: bool = False) -> list[Entry]:
    """Entries of one `layers.ConvBlock`; `noise` says whether it has noise."""
    if depthwise:
        entries = _kernel(f'{torch_prefix}.conv1', (*path, 'depthwise'), branches)
        entries.append(
            Entry(f'{torch_prefix}.conv1.bias', ('params', *path, 'bias'), PLAIN))
        entries += _kernel(f'{torch_prefix}.conv2', (*path, 'pointwise'), branches)
        # The deployed layout lifts the noise from the 1x1 conv to the block.
        noise_prefix = torch_prefix if fused else f'{torch_prefix}.conv2'
    else:
        entries = _kernel(torch_prefix, (*path, 'conv'), branches)
        entries.append(Entry(f'{torch_prefix}.bias', ('params', *path, 'bias'), PLAIN))
        noise_prefix = torch_prefix
    if noise:
        entries += [
            Entry(f'{noise_prefix}.noise_strength',
                  ('params', *path, 'noise', 'strength'), PLAIN),
            Entry(f'{noise_prefix}.noise_const',
                  ('noise', *path, 'noise', 'const'), PLAIN),
        ]
    return entries


def generator_table(resolution: int, *, branches: int, depthwise: bool = True,
                    noise_at_4x4: bool = False, fused: bool = False) -> list[Entry]:
    """Entries of a generator.

    Args:
      resolution: R, a power of two from 16.
      branches: n of the training layout; 0 for one plain weight.
      depthwise: dw-sep blocks or plain 3x3 convolutions.
      noise_at_4x4: the decoder's 4x4 blocks have noise (the published have not).
      fused: the deployed layout; `branches` must be 0.

    Returns:
      list of `Entry`.
    """
    entries = []
    for layer in topology.layers(resolution):
        prefix = torch_name(layer)
        if layer.name == 'fromrgb':
            entries += pointwise(prefix, layer.path, 0)
        elif layer.name == 'torgb':
            entries += pointwise(prefix, layer.path, branches)
        else:
            noise = layer.in_decoder and (layer.resolution > 4 or noise_at_4x4)
            entries += block(prefix, layer.path, branches, depthwise, noise, fused)
    return entries


def torch_name(layer: topology.Layer) -> str:
    """What the torch side calls a `topology.Layer`."""
    part = 'synthesis' if layer.in_decoder else layer.part
    return '.'.join((part, *layer.path[1:]))


def _modulated(torch_prefix, path, noise):
    """Entries of one modulated convolution of Co-Mod-GAN, with its style's dense."""
    entries = [
        Entry(f'{torch_prefix}.weight', ('params', *path, 'kernel'), CONV),
        Entry(f'{torch_prefix}.bias', ('params', *path, 'bias'), PLAIN),
        Entry(f'{torch_prefix}.affine.weight',
              ('params', *path, 'affine', 'kernel'), DENSE),
        Entry(f'{torch_prefix}.affine.bias',
              ('params', *path, 'affine', 'bias'), PLAIN),
    ]
    if noise:
        entries += [
            Entry(f'{torch_prefix}.noise_strength',
                  ('params', *path, 'noise', 'strength'), PLAIN),
            Entry(f'{torch_prefix}.noise_const',
                  ('noise', *path, 'noise', 'const'), PLAIN),
        ]
    return entries


def comodgan_table(resolution: int, *, mapping_layers: int = 8) -> list[Entry]:
    """Entries of a Co-Mod-GAN generator (`comodgan.Generator`).

    Args:
      resolution: R, a power of two from 16.
      mapping_layers: dense layers from z to w.

    Returns:
      list of `Entry`.
    """
    def layer(torch_prefix, path, kind):
        return [Entry(f'{torch_prefix}.weight', ('params', *path, 'kernel'), kind),
                Entry(f'{torch_prefix}.bias', ('params', *path, 'bias'), PLAIN)]

    entries = [Entry('mapping.w_avg', ('average', 'mapping', 'w_avg'), PLAIN)]
    for i in range(mapping_layers):
        entries += layer(f'mapping.fc{i}', ('mapping', f'fc{i}'), DENSE)
    for r in resolutions(resolution):
        names = ('fromrgb', 'conv0', 'conv1') if r == resolution else ('conv0', 'conv1')
        for name in names:
            entries += layer(f'encoder.b{r}.{name}', ('encoder', f'b{r}', name), CONV)
    entries += layer('encoder.b4.conv', ('encoder', 'b4', 'conv'), CONV)
    entries += layer('encoder.b4.fc', ('encoder', 'b4', 'fc'), DENSE)
    entries += layer('synthesis.b4.fc', ('decoder', 'b4', 'fc'), DENSE)
    for r in (4, *reversed(tuple(resolutions(resolution)))):
        path, prefix = ('decoder', f'b{r}'), f'synthesis.b{r}'
        for name in ('conv',) if r == 4 else ('conv0', 'conv1'):
            entries += _modulated(f'{prefix}.{name}', (*path, name), noise=True)
        entries += _modulated(f'{prefix}.torgb', (*path, 'torgb'), noise=False)
    return entries


def deployed_constants(resolution: int, channels: Callable[[int], int],
                       fir_taps: Sequence[float]) -> dict[str, np.ndarray]:
    """The fixed FIR tensors that the deployed layout carries as parameters.

    Args:
      resolution: R.
      channels: function r -> ch(r).
      fir_taps: the four taps along one axis, `ops.FIR_TAPS`.

    Returns:
      {torch name: f32 array}: `*.downsample.filter.weight` [C, 1, 4, 4],
      `*.upsample.filter.weight` [C, 1, 4, 4] with gain 4 and
      `*.upsample.filter_const` [1, 1, r, r], ones where the zero-inserting
      upsampling has a sample.
    """
    taps = np.outer(fir_taps, fir_taps).astype(np.float32)
    per_channel = lambda c, gain: np.tile(taps * np.float32(gain), (c, 1, 1, 1))
    constants = {}
    for r in resolutions(resolution):
        constants[f'encoder.b{r}.conv2.downsample.filter.weight'] = per_channel(
            channels(r), 1)
        inserted = np.zeros((1, 1, r, r), np.float32)
        inserted[:, :, ::2, ::2] = 1
        for prefix, c in ((f'synthesis.b{r}.conv1.upsample', channels(r)),
                          (f'synthesis.b{r}.upsample', 3)):
            constants[f'{prefix}.filter.weight'] = per_channel(c, 4)
            constants[f'{prefix}.filter_const'] = inserted
    return constants


def _to_flax(array, kind):
    if kind == CONV:
        return array.transpose(2, 3, 1, 0)
    if kind == DENSE:
        return array.transpose(1, 0)
    return array


def _to_torch(array, kind):
    if kind == CONV:
        return array.transpose(3, 2, 0, 1)
    if kind == DENSE:
        return array.transpose(1, 0)
    return array


def is_constant(name: str) -> bool:
    """FIR taps and zero-insertion masks: fixed, no counterpart in Flax."""
    return name.endswith(('resample_filter', '.filter.weight', '.filter_const',
                          '.insert_zeros'))


def _find(variables, entry):
    """The leaf of `variables` that an entry names, all branches of it."""
    node = variables
    for name in entry.path:
        if name not in node:
            raise ValueError(f'the parameters have no {"/".join(entry.path)}, '
                             f'needed for {entry.torch}.')
        node = node[name]
    return node


def torch_shapes(variables: Mapping[str, Any], table: Sequence[Entry]
                 ) -> dict[str, tuple[int, ...]]:
    """The shapes that Flax variables have on the torch side.

    Args:
      variables: nested dict; of its leaves only `shape` is read, so that
        `jax.eval_shape` of a model's init will do.
      table: from `generator_table` or its like.

    Returns:
      {torch name: tuple of ints}.

    Raises:
      ValueError: a path of the table is missing in `variables`.
    """
    shapes = {}
    for entry in table:
        shape = tuple(_find(variables, entry).shape)
        if entry.branch is not None:
            shape = shape[1:]
        order = {CONV: (3, 2, 0, 1), DENSE: (1, 0)}.get(entry.kind, range(len(shape)))
        shapes[entry.torch] = tuple(shape[axis] for axis in order)
    return shapes


def from_torch(state: Mapping[str, np.ndarray], table: Sequence[Entry],
               shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """State dict -> Flax variables.

    Args:
      state: {torch name: array}.
      table: from `generator_table` or `comodgan_table`.
      shapes: what the arrays must have, from `torch_shapes`; not checked if None.

    Returns:
      {'params': nested dict, 'noise': nested dict} of float32 NumPy arrays.

    Raises:
      ValueError: names are missing or unexpected, or shapes differ; all are listed.
    """
    names = {entry.torch for entry in table}
    shapes = shapes or {}
    missing = sorted(names - set(state))
    unexpected = sorted(n for n in set(state) - names if not is_constant(n))
    wrong = [f'{name} has {list(np.shape(state[name]))}, expected {list(shapes[name])}'
             for name in sorted(shapes.keys() & state.keys())
             if np.shape(state[name]) != shapes[name]]
    if missing or unexpected or wrong:
        raise ValueError(
            f'state dict does not fit the model: {len(missing)} missing {missing}, '
            f'{len(unexpected)} unexpected {unexpected}'
            + (f', {len(wrong)} of another shape: {"; ".join(wrong)}' if wrong else '')
            + '.')
    flat = {}
    for entry in table:
        array = _to_flax(np.asarray(state[entry.torch], np.float32), entry.kind)
        if entry.branch is None:
            flat[entry.path] = np.array(array, order='C')
        else:
            flat.setdefault(entry.path, []).append(array)
    variables = {'params': {}, 'noise': {}}
    for path, array in flat.items():
        node = variables
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = np.stack(array) if isinstance(array, list) else array
    return variables


def to_torch(variables: Mapping[str, Any], table: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Flax variables -> {torch name: f32 array}; the inverse of `from_torch`.

    Raises:
      ValueError: a path of the table is missing in `variables`.
    """
    state = {}
    for entry in table:
        array = np.asarray(_find(variables, entry))
        if entry.branch is not None:
            array = array[entry.branch]
        state[entry.torch] = np.array(_to_torch(array, entry.kind), order='C')
    return state
