"""Adam as the published training uses it, aware of branches and lazy regularisers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


# Added to the root of the second moment.
_EPS = 1e-8


def sanitize(gradients: Any) -> Any:
    """NaN -> 0, +-inf -> +-1e5, per leaf."""
    return jax.tree.map(
        lambda g: jnp.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5), gradients)


def _scale_branch_sums(factor):
    """Multiplies the updates of every `branch_sum` by `factor`."""
    def scale(path, update):
        return update * factor if path[-1].key == 'branch_sum' else update
    return optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def make_optimizer(learning_rate: float, b2: float, branches: int = 0, b1: float = 0.0
                   ) -> optax.GradientTransformation:
    """Adam on sanitised gradients, as published with b1 = 0.

    b1 = 0 needs no first moment: RMS scaling with bias correction is the same.
    A kernel trained as the sum s = sum_i w_i / sqrt(n) of n equal-gradient branches
    follows the trajectory of the branches: each sees dL/ds / sqrt(n), and equal
    updates u of all branches move s by sqrt(n) * u.

    Args:
      learning_rate: of one branch.
      b2: decay of the second moment.
      branches: n of the parameters called `branch_sum`; 0 if there are none.
      b1: decay of the first moment.
    """
    root = float(max(branches, 1))**0.5
    scaling = (
        optax.scale_by_adam(b1, b2, _EPS) if b1
        else optax.scale_by_rms(b2, _EPS, eps_in_sqrt=False, bias_correction=True))
    chain = optax.chain(
        _scale_branch_sums(1 / root),
        optax.stateless(lambda updates, _: sanitize(updates)),
        scaling,
        _scale_branch_sums(root),
        optax.scale(-learning_rate),
    )

    def update(updates, state, params=None):
        # optax's bias correction mixes dtypes, which strict promotion forbids.
        with jax.numpy_dtype_promotion('standard'):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def lazy_optimizer(learning_rate: float, interval: int, branches: int,
                   b1: float = 0.0) -> optax.GradientTransformation:
    """`make_optimizer` with the lazy-regularisation correction.

    Every `interval` iterations (0: never) a regulariser takes one more step with the
    same optimiser: learning rate and log b2 shrink by interval / (interval + 1)
    (Karras et al., Analyzing and improving the image quality of StyleGAN, 2020).
    """
    ratio = interval / (interval + 1) if interval else 1.0
    return make_optimizer(learning_rate * ratio, 0.99**ratio, branches=branches, b1=b1)
