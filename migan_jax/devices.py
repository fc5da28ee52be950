"""The devices of one process: copies of arrays on each, and back."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

# On a device (a traced one too) or on the host.
Array = jax.Array | np.ndarray

# The devices of one run, in every pmapped function.
AXIS = 'device'


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """One copy per device, leading axis = devices, placed as pmapped functions place.

    flax's `replicate` names its mesh axis differently from the results of the steps: the
    first step would be compiled twice, once for each. It also compiles three functions
    for each shape in the tree.
    """
    count = jax.local_device_count() if devices is None else len(devices)
    copies = jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), tree)
    return jax.pmap(lambda x: x, AXIS, devices=devices)(copies)


def unreplicate(tree: Any) -> Any:
    """First local copy of a replicated tree, on the host.

    Not `x[0]`: indexing a sharded array compiles a gather over devices.
    """
    return jax.device_get(jax.tree.map(lambda x: x.addressable_data(0)[0], tree))
