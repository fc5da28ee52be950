"""One training iteration: G, then D, every 16th time R1; one pmapped function each.

    batch = prepare(state, images)              masks are drawn on the device
    state, metrics = g(state, batch, teacher)   teacher: its parameters, or None
    state, metrics = d(state, batch)
    state, metrics = r1(state, batch)           when step % r1_interval == 0
    state, metrics = path_length(state, batch)  likewise, if that term is on

All arguments and results have a leading device axis.  Keys are
fold_in(fold_in(key(seed), step), device), so none is stored and a resumed run
draws what an uninterrupted one draws.

With `Settings.accumulate` above 1, G, D and R1 each take their gradient from that many
parts of a device's batch, one after another, and step once with the mean: the memory
of a part, the step of the whole batch.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from migan_jax.data import mask_bank
from migan_jax.data import masks
from migan_jax.data import object_masks
from migan_jax.devices import AXIS
from migan_jax.devices import replicate
from migan_jax.model.layers import std_group
from migan_jax.model import io as model_io
from migan_jax.training import losses
from migan_jax.training.state import Models
from migan_jax.training.state import TrainState

# What a key is for, within one step of one device.
_MASKS, _G_PAINT, _D_PAINT, _TEACHER, _PATH_LENGTH, _MASK_BANK, _OBJECTS = range(7)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Numbers of a training run; the defaults are the published ones.

    Attributes:
      seed: of everything drawn in a step.
      batch_size: images per iteration over all devices, for the EMA's half-life.
      ema_kimg: half-life of the EMA in thousands of images.
      ema_rampup: the half-life is at most this share of the images seen; 0 is off.
      r1_gamma, r1_interval: weight of the R1 penalty, iterations between its steps.
      distillation_weight, distillation_min_resolution: used with a teacher.
      reconstruction_weight: of an L1 loss on composites (0 in the paper).
      adversarial_weight: of the generator's loss against the discriminator; at 0 there
        is none of it, and neither D's step nor R1.
      decay_kimg, total_kimg: the learning rates fall linearly to 0 within the last
        `decay_kimg` of `total_kimg` thousand images; 0 is never, as published.
      warmup_kimg: the learning rates rise linearly from 0 over the first so many; 0 is
        at once, as published.
      path_length_weight, path_length_interval: of StyleGAN2's path-length term, for
        generators with a latent; 0 is off.
      hole_range, brush_width: of `masks.free_form`.
      noise: mode of the generator's noise; tests turn it off.
      images_offset: images seen are step * batch_size + images_offset; not 0 once a
        run has gone on with another batch size.
      d_only_steps: iterations at the start without a step of the generator.
      objects_share: of samples whose mask is object-shaped, among those that no bank
        gives.
      bank_share: of samples whose mask is from a bank, where there is one.
      accumulate: parts of a device's batch, see `over_parts`.
      freeze_encoder: the generator's encoder stays as it is.
    """
    seed: int = 0
    batch_size: int = 32
    ema_kimg: float = 20.0
    ema_rampup: float = 0.0
    r1_gamma: float = 10.0
    r1_interval: int = 16
    distillation_weight: float = 2.0
    distillation_min_resolution: int = 32
    reconstruction_weight: float = 0.0
    adversarial_weight: float = 1.0
    decay_kimg: float = 0.0
    total_kimg: float = 0.0
    warmup_kimg: float = 0.0
    path_length_weight: float = 0.0
    path_length_interval: int = 4
    hole_range: tuple[float, float] = (0.0, 1.0)
    brush_width: tuple[int, int] = (12, 48)
    noise: str = 'random'
    images_offset: int = 0
    d_only_steps: int = 0
    bank_share: float = 0.5
    accumulate: int = 1
    objects_share: float = 0.0
    freeze_encoder: bool = False


class Steps(NamedTuple):
    """The pmapped functions of an iteration."""
    prepare: Callable
    g: Callable
    d: Callable
    r1: Callable
    path_length: Callable


def step_key(seed: int, step: jax.typing.ArrayLike, purpose: int) -> jax.Array:
    """Key of this device in this step for one purpose (inside pmap)."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
    return jax.random.fold_in(key, purpose)


def over_parts(accumulate: int, function: Callable, batch: Any) -> Any:
    """Mean of a function over parts of a device's batch, taken one after another.

    A part consists of whole groups of `layers.minibatch_std`: the discriminator compares
    the same samples as in the whole batch, so that neither its scores nor R1's gradients
    depend on the number of parts. Noise, latents and dropout are drawn anew in each.

    Args:
      accumulate: number of parts; with 1 this is the function of the whole batch.
      function: (batch, fold) -> tree of floating-point means over samples; what it
        draws has keys fold(key).
      batch: tree of [B, ...].

    Returns:
      tree like the function's.

    Raises:
      ValueError: `accumulate` does not divide B / std_group(B).
    """
    if accumulate == 1:
        return function(batch, lambda key: key)
    count = len(jax.tree.leaves(batch)[0])
    group = std_group(count)
    if count // group % accumulate:
        raise ValueError(
            f'accumulate is {accumulate}; expected a divisor of {count // group}, the '
            f'number of groups of {group} in a batch of {count}.')
    # Sample j is in group j mod B / group: groups are neighbours in the second axis.
    parts = jax.tree.map(
        lambda x: x.reshape(group, accumulate, -1, *x.shape[1:]).swapaxes(0, 1).reshape(
            accumulate, -1, *x.shape[1:]), batch)

    def mean_of(batch, i):
        found = function(batch, lambda key: jax.random.fold_in(key, i))
        return jax.tree.map(lambda x: x / accumulate, found)

    def add(total, part):
        return jax.tree.map(jnp.add, total, mean_of(*part)), None

    numbers = jnp.arange(accumulate)
    shapes = jax.eval_shape(mean_of, jax.tree.map(lambda x: x[0], parts), numbers[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, (parts, numbers))[0]


def images_seen(settings: Settings, step: jax.Array) -> jax.Array:
    """f32[]: images trained on before iteration `step`, counted from 0."""
    return step.astype(jnp.float32) * settings.batch_size + settings.images_offset


def ema_decay(settings: Settings, step: jax.Array) -> jax.Array:
    """beta = .5^(batch / half-life in images)."""
    half_life = jnp.float32(settings.ema_kimg * 1000)
    if settings.ema_rampup:
        half_life = jnp.minimum(
            half_life, images_seen(settings, step) * settings.ema_rampup)
    return 0.5**(settings.batch_size / jnp.maximum(half_life, 1e-8))


def learning_rate_factor(settings: Settings, step: jax.Array) -> jax.Array:
    """f32[] in [0, 1] that scales the updates of iteration `step`, counted from 0."""
    seen, factor = images_seen(settings, step), jnp.ones(())
    if settings.warmup_kimg:
        # With what this iteration sees: its own step is not 0.
        factor = jnp.minimum(
            factor, (seen + settings.batch_size) / (settings.warmup_kimg * 1000))
    if settings.decay_kimg:
        left = settings.total_kimg * 1000 - seen
        factor = jnp.clip(left / (settings.decay_kimg * 1000), 0.0, factor)
    return factor


def paint(generator: nn.Module, params: Mapping[str, Any], variables: Mapping[str, Any],
          batch: Mapping[str, jax.Array], mode: str,
          key: jax.Array) -> tuple[jax.Array, dict[int, jax.Array], Mapping[str, Any]]:
    """Composite of the generator's output in training, and its torgb outputs.

    Args:
      generator: of MI-GAN or Co-Mod-GAN.
      params, variables: of it; `variables` holds its other collections.
      batch: {'image': f32[B, R, R, 3], 'mask': f32[B, R, R, 1], 1 = known}.
      mode: of the noise.
      key: of everything drawn: noise, latent, dropout.

    Returns:
      fake: f32[B, R, R, 3] = G * (1 - mask) + image * mask.
      rgbs: {r: f32[B, r, r, 3]}.
      averages: the collection of running means, moved by this batch; {} for MI-GAN.
    """
    x = model_io.model_input(batch['image'], batch['mask'])
    noise, latent, dropout = jax.random.split(key, 3)
    z = generator.latents(jax.random.split(latent, len(x)))
    (output, rgbs), averages = generator.apply(
        {'params': params, **variables}, x, mode, z,
        rngs={'noise': noise, 'dropout': dropout}, mutable=['average'])
    return model_io.composite(output, batch['image'], batch['mask']), rgbs, averages


def prepare_batch(settings: Settings, step: jax.Array, images: jax.Array,
                  bank: jax.Array | None = None) -> dict[str, jax.Array]:
    """u8 images -> Batch, with masks drawn on this device.

    Args:
      images: u8[B, R, R, 3].
      bank: of `mask_bank.read_bank`, or None: free-form masks alone.

    Returns:
      {'image': f32[B, R, R, 3] in [-1, 1], 'mask': f32[B, R, R, 1], 1 = known}.
    """
    keys_for = lambda purpose: jax.random.split(
        step_key(settings.seed, step, purpose), images.shape[0])
    drawn = masks.free_form_batch(keys_for(_MASKS), images.shape[1], settings.hole_range,
                                  brush_width=settings.brush_width)
    if settings.objects_share:
        drawn = mask_bank.mix(
            keys_for(_OBJECTS),
            lambda key: object_masks.draw(key, images.shape[1], settings.hole_range),
            settings.objects_share, drawn)
    if bank is not None:
        drawn = mask_bank.mix(
            keys_for(_MASK_BANK), lambda key: mask_bank.draw(key, bank),
            settings.bank_share, drawn)
    return {'image': model_io.from_uint8(images), 'mask': drawn}


def _without_frozen(settings, params_g):
    """The parameters, through those of a frozen encoder no gradient."""
    if not settings.freeze_encoder:
        return params_g
    return {**params_g, 'encoder': jax.lax.stop_gradient(params_g['encoder'])}


def _keep_frozen(settings, before, after):
    """`after` with a frozen encoder as it was: moments of earlier steps move it, too."""
    if not settings.freeze_encoder:
        return after
    return {**after, 'encoder': before['encoder']}


def g_gradients(models: Models, settings: Settings, teacher: Callable | None, state: TrainState,
                batch: Mapping[str, jax.Array],
                teacher_params: Any) -> tuple[Any, dict[str, jax.Array], Mapping[str, Any]]:
    """Generator losses and their gradient, averaged over devices.

    Returns:
      gradients: like state.params_g.
      metrics: {name: f32[]}.
      averages: see `paint`.
    """
    def part(batch, fold):
        key = fold(step_key(settings.seed, state.step, _G_PAINT))

        def loss_fn(params_g):
            params_g = _without_frozen(settings, params_g)
            fake, rgbs, averages = paint(models.generator, params_g, state.variables,
                                         batch, settings.noise, key)
            metrics, loss = {}, jnp.zeros(())
            if settings.adversarial_weight:
                logits = models.discriminator.apply(
                    {'params': state.params_d},
                    model_io.critic_input(fake, batch['mask']))
                adversarial = losses.generator_loss(logits)
                metrics = {'g_adversarial': adversarial, 'g_score_fake': jnp.mean(logits)}
                loss += settings.adversarial_weight * adversarial
            if teacher is not None:
                x = model_io.model_input(batch['image'], batch['mask'])
                teacher_rgbs = teacher(
                    teacher_params, x,
                    fold(step_key(settings.seed, state.step, _TEACHER)))
                metrics['g_distillation'] = losses.distillation_loss(
                    rgbs, teacher_rgbs, batch['mask'],
                    settings.distillation_min_resolution)
                loss += settings.distillation_weight * metrics['g_distillation']
            if settings.reconstruction_weight:
                metrics['g_reconstruction'] = losses.reconstruction_loss(
                    fake, batch['image'])
                loss += settings.reconstruction_weight * metrics['g_reconstruction']
            metrics['g_loss'] = loss
            return loss, (metrics, averages)

        gradients, (metrics, averages) = jax.grad(loss_fn, has_aux=True)(state.params_g)
        return gradients, metrics, averages

    return jax.lax.pmean(over_parts(settings.accumulate, part, batch), AXIS)


def d_gradients(models: Models, settings: Settings, state: TrainState,
                batch: Mapping[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
    """Discriminator loss on a fake drawn anew and its gradient, averaged."""
    def part(batch, fold):
        key = fold(step_key(settings.seed, state.step, _D_PAINT))
        fake, _, _ = paint(models.generator, state.params_g, state.variables, batch,
                           settings.noise, key)

        def loss_fn(params_d):
            critic = lambda image: models.discriminator.apply(
                {'params': params_d}, model_io.critic_input(image, batch['mask']))
            real_logits, fake_logits = critic(batch['image']), critic(fake)
            loss = losses.discriminator_loss(real_logits, fake_logits)
            return loss, {'d_loss': loss, 'd_score_real': jnp.mean(real_logits),
                          'd_score_fake': jnp.mean(fake_logits)}

        return jax.grad(loss_fn, has_aux=True)(state.params_d)

    return jax.lax.pmean(over_parts(settings.accumulate, part, batch), AXIS)


def r1_gradients(models: Models, settings: Settings, state: TrainState,
                 batch: Mapping[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
    """R1 on real images, gamma/2 times the interval, and its gradient, averaged."""
    def part(batch, _):
        x = model_io.critic_input(batch['image'], batch['mask'])

        def loss_fn(params_d):
            critic = lambda x: models.discriminator.apply({'params': params_d}, x)
            penalty = jnp.mean(losses.r1_penalty(critic, x))
            return penalty * (settings.r1_gamma / 2 * settings.r1_interval), {
                'r1_penalty': penalty}

        return jax.grad(loss_fn, has_aux=True)(state.params_d)

    return jax.lax.pmean(over_parts(settings.accumulate, part, batch), AXIS)


# Share of the old mean that a path-length step keeps.
_PATH_LENGTH_DECAY = 0.99


def path_length_gradients(models: Models, settings: Settings, state: TrainState,
                          batch: Mapping[str, jax.Array]
                          ) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    """StyleGAN2's path-length term and its gradient, averaged over devices.

    weight * interval * mean((length - running mean of lengths)^2), on half the batch
    as published, since it is the dearest of all steps.

    Returns:
      gradients: like state.params_g.
      metrics: {name: f32[]}.
      mean: f32[], the running mean, moved.
    """
    generator = models.generator
    x = model_io.model_input(batch['image'], batch['mask'])
    x = x[:max(1, len(x) // 2)]
    noise, latent, direction = jax.random.split(
        step_key(settings.seed, state.step, _PATH_LENGTH), 3)
    z = generator.latents(jax.random.split(latent, len(x)))
    y = jax.random.normal(direction, (*x.shape[:3], 3)) / x.shape[1]

    def loss_fn(params_g):
        params_g = _without_frozen(settings, params_g)
        variables = {'params': params_g, **state.variables}
        ws = generator.apply(variables, z, method=generator.map)
        paint_ws = lambda ws: generator.apply(
            variables, x, ws, settings.noise, rngs={'noise': noise},
            method=generator.synthesize)[0]
        lengths = losses.path_lengths(paint_ws, ws, y)
        measured = jax.lax.pmean(jnp.mean(jax.lax.stop_gradient(lengths)), AXIS)
        mean = measured + _PATH_LENGTH_DECAY * (state.path_length - measured)
        penalty = jnp.mean(jnp.square(lengths - mean))
        loss = penalty * (settings.path_length_weight * settings.path_length_interval)
        return loss, ({'path_length': measured, 'path_length_penalty': penalty}, mean)

    gradients, (metrics, mean) = jax.grad(loss_fn, has_aux=True)(state.params_g)
    return *jax.lax.pmean((gradients, metrics), AXIS), mean


def _apply(phase, tx, gradients, opt_state, params, factor):
    """Parameters and optimiser after a step, and what is to be said of its gradient.

    Args:
      phase: 'g', 'd', 'r1' or 'path', with which names of metrics begin.

    Returns:
      parameters, optimiser state, {phase_nonfinite: elements that are not finite;
      phase_gradient: L2 norm of the others}.
    """
    leaves = jax.tree.leaves(gradients)
    # The optimiser replaces them, so that a loss may look healthy with a dead gradient.
    finite = [jnp.isfinite(g) for g in leaves]
    nonfinite = sum(jnp.sum(~f, dtype=jnp.float32) for f in finite)
    squares = sum(jnp.sum(jnp.square(jnp.where(f, g, 0).astype(jnp.float32)))
                  for f, g in zip(finite, leaves))
    updates, opt_state = tx.update(gradients, opt_state, params)
    params = jax.tree.map(lambda p, u: p + u * factor.astype(u.dtype), params, updates)
    return params, opt_state, {f'{phase}_nonfinite': nonfinite,
                               f'{phase}_gradient': jnp.sqrt(squares)}


def make_steps(models: Models, settings: Settings, teacher: Callable | None = None,
               devices: Sequence | None = None, bank: np.ndarray | None = None) -> Steps:
    """Compiles nothing yet: the pmapped functions of an iteration.

    Args:
      models: `state.Models`.
      settings: `Settings`.
      teacher: optional function (teacher_params, x, key) -> {r: f32[B, r, r, 3]}
        with x as for the generator, see `state.load_teacher`; frozen, its parameters
        go in beside the state.
      devices: to run on, or of a topology to compile for; all by default.
      bank: masks of one's own, see `prepare_batch`; replicated here.

    Returns:
      `Steps`; all but prepare donate their state.
    """
    factor = lambda state: learning_rate_factor(settings, state.step)
    # The iteration ends with D's step, where there is one.
    g_ends = 0 if settings.adversarial_weight else 1

    def prepare(state, images, *bank):
        return prepare_batch(settings, state.step, images, *bank)

    def g_step(state, batch, teacher_params):
        gradients, metrics, averages = g_gradients(
            models, settings, teacher, state, batch, teacher_params)
        params, opt, said = _apply(
            'g', models.tx_g, gradients, state.opt_g, state.params_g, factor(state))
        params = _keep_frozen(settings, state.params_g, params)
        beta = ema_decay(settings, state.step)
        ema = jax.tree.map(
            lambda e, p: p + (e - p) * beta.astype(p.dtype), state.ema, params)
        return state.replace(params_g=params, opt_g=opt, ema=ema,
                             step=state.step + g_ends,
                             variables={**state.variables, **averages}), metrics | said

    def d_step(state, batch):
        gradients, metrics = d_gradients(models, settings, state, batch)
        params, opt, said = _apply(
            'd', models.tx_d, gradients, state.opt_d, state.params_d, factor(state))
        return state.replace(params_d=params, opt_d=opt, step=state.step + 1), (
            metrics | said)

    def r1_step(state, batch):
        gradients, metrics = r1_gradients(models, settings, state, batch)
        params, opt, said = _apply(
            'r1', models.tx_d, gradients, state.opt_d, state.params_d, factor(state))
        return state.replace(params_d=params, opt_d=opt), metrics | said

    def path_length_step(state, batch):
        gradients, metrics, mean = path_length_gradients(models, settings, state, batch)
        params, opt, said = _apply(
            'path', models.tx_g, gradients, state.opt_g, state.params_g, factor(state))
        params = _keep_frozen(settings, state.params_g, params)
        return state.replace(params_g=params, opt_g=opt, path_length=mean), (
            metrics | said)

    step = lambda f: jax.pmap(f, AXIS, donate_argnums=0, devices=devices)
    prepare = jax.pmap(prepare, AXIS, devices=devices)
    if bank is not None:
        # An argument, not a constant: programs should not hold megabytes.
        without, copies = prepare, replicate(bank)
        prepare = lambda state, images: without(state, images, copies)
    return Steps(prepare, step(g_step), step(d_step),
                 step(r1_step), step(path_length_step))


def r1_is_due(settings: Settings, step: int) -> bool:
    """Whether iteration `step` (counted from 0) ends with an R1 step."""
    return settings.adversarial_weight > 0 and step % settings.r1_interval == 0


def path_length_is_due(settings: Settings, step: int) -> bool:
    """Whether iteration `step` (counted from 0) ends with a path-length step."""
    return (settings.path_length_weight > 0
            and step % settings.path_length_interval == 0)


def iterate(steps: Steps, settings: Settings, step: int, state: TrainState,
            images: jax.typing.ArrayLike,
            teacher_params: Any = None) -> tuple[TrainState, dict[str, jax.Array]]:
    """One whole iteration.

    Args:
      steps: from `make_steps`.
      settings: `Settings`.
      step: Python int, equal to state.step.
      state: replicated TrainState, donated.
      images: u8[devices, B, R, R, 3].
      teacher_params: replicated, or None.

    Returns:
      state, metrics: {name: f32[devices]} of the phases that ran.
    """
    batch = steps.prepare(state, images)
    metrics = {}
    if step >= settings.d_only_steps:
        state, metrics = steps.g(state, batch, teacher_params)
    if settings.adversarial_weight:
        state, more = steps.d(state, batch)
        metrics = metrics | more
    if r1_is_due(settings, step):
        state, more = steps.r1(state, batch)
        metrics |= more
    if step >= settings.d_only_steps and path_length_is_due(settings, step):
        state, more = steps.path_length(state, batch)
        metrics |= more
    return state, metrics
