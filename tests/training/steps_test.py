"""Training steps against three iterations of the published code, and device counts."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from migan_jax.devices import AXIS
from migan_jax.devices import replicate
from migan_jax.devices import unreplicate
from migan_jax.weights import torch_map
from migan_jax.model.discriminator import Discriminator
from migan_jax.model.generator import Generator
from migan_jax.model.layers import ConvSpec
from migan_jax.model.layers import minibatch_std
from migan_jax.training import optimizers
from migan_jax.training import state as state_lib
from migan_jax.training import steps
import published_forms

R = 32
SETTINGS = steps.Settings(
    batch_size=8, ema_kimg=0.02, distillation_min_resolution=8, noise='none')
TABLE_G = torch_map.generator_table(R, branches=9)
TABLE_D = published_forms.discriminator_table(R, branches=9)


def _models(materialize, dtype=jnp.float32):
    spec = ConvSpec(materialize_branches=materialize, dtype=dtype)
    return state_lib.Models(
        Generator(R, 256, 16, spec, noise_at_4x4=False), Discriminator(R, 256, 16, spec),
        optimizers.lazy_optimizer(1e-3, 4, 9), optimizers.lazy_optimizer(1e-3, 16, 9))


@functools.cache
def _golden():
    return golden.load('train_steps')


def _state(models, materialize):
    arrays = _golden()
    form = (lambda p: p) if materialize else published_forms.collapse_branches
    g = torch_map.from_torch(golden.subset(arrays, 'state/g/'), TABLE_G)
    d = torch_map.from_torch(golden.subset(arrays, 'state/d/'), TABLE_D)
    g_params, d_params = form(g['params']), form(d['params'])
    return state_lib.TrainState(
        step=jnp.zeros((), jnp.int32), params_g=g_params, params_d=d_params,
        ema=jax.tree.map(np.copy, g_params), variables={'noise': g['noise']},
        path_length=np.zeros((), np.float32),
        opt_g=models.tx_g.init(g_params), opt_d=models.tx_d.init(d_params))


def _teacher():
    """The golden's teacher: a plain MI-GAN generator without branches."""
    table = torch_map.generator_table(R, branches=0)
    variables = torch_map.from_torch(golden.subset(_golden(), 'state/teacher/'), table)
    model = Generator(R, 256, 16, ConvSpec(branches=0), noise_at_4x4=False)
    return (lambda variables, x, key: model.apply(variables, x, 'none')[1]), variables


def _batch(i):
    arrays = _golden()
    return {name: jnp.asarray(golden.nhwc(arrays[f'in/{i}/{name}']))
            for name in ('image', 'mask')}


def _replicate(tree, devices):
    return replicate(tree, jax.devices()[:devices])


def _shard(batch, devices):
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def _without_noise_strength(state):
    return {k: v for k, v in state.items() if not k.endswith('noise_strength')}


@functools.cache
def _functions(materialize):
    """Models and pmapped steps; cached, because compiling them takes most of the time."""
    models = _models(materialize)
    return models, steps.make_steps(models, SETTINGS, _teacher()[0])


def _run(materialize, iterations):
    """Runs iterations on one device; yields metrics, ends with the state."""
    models, functions = _functions(materialize)
    teacher_variables = _teacher()[1]
    state = _replicate(_state(models, materialize), 1)
    teacher_variables = _replicate(teacher_variables, 1)
    history = []
    for i in range(iterations):
        batch = _shard(_batch(i), 1)
        state, metrics = functions.g(state, batch, teacher_variables)
        state, more = functions.d(state, batch)
        metrics |= more
        if steps.r1_is_due(SETTINGS, i):
            state, more = functions.r1(state, batch)
            metrics |= more
        history.append(unreplicate(metrics))
    return history, unreplicate(state)


def test_gradients_of_the_first_iteration_equal_the_published_code():
    models, functions = _functions(materialize=True)
    teacher, teacher_variables = _teacher()
    arrays = _golden()
    state = _replicate(_state(models, True), 1)
    batch = _shard(_batch(0), 1)
    pmap = lambda f, *args: unreplicate(
        jax.pmap(f, AXIS)(*args))
    g, _, _ = pmap(functools.partial(steps.g_gradients, models, SETTINGS, teacher),
                state, batch, _replicate(teacher_variables, 1))
    ours = torch_map.to_torch({'params': g, **_state(models, True).variables}, TABLE_G)
    expected = golden.subset(arrays, 'out/0/grad/Gmain/')
    assert len(expected) > 100
    for name, array in expected.items():
        assert golden.relative_error(ours[name], array) < 1e-3, name
    # The golden's D gradients are taken after G's update.
    state, _ = functions.g(state, batch, _replicate(teacher_variables, 1))
    d, _ = pmap(functools.partial(steps.d_gradients, models, SETTINGS), state, batch)
    ours = torch_map.to_torch({'params': d}, TABLE_D)
    for name, array in golden.subset(arrays, 'out/0/grad/Dmain/').items():
        assert golden.relative_error(ours[name], array) < 1e-3, name
    state, _ = functions.d(state, batch)
    r1, _ = pmap(functools.partial(steps.r1_gradients, models, SETTINGS), state, batch)
    ours = torch_map.to_torch({'params': r1}, TABLE_D)
    for name, array in golden.subset(arrays, 'out/0/grad/Dreg/').items():
        assert golden.relative_error(ours[name], array) < 1e-3, name


@pytest.mark.parametrize('materialize', [True, False], ids=['branches', 'sum'])
def test_three_iterations_equal_the_published_code(materialize):
    arrays = _golden()
    history, state = _run(materialize, 3)
    names = {'G/loss': 'g_loss', 'G/kd_l1_image_level_loss': 'g_distillation',
             'D/loss': 'd_loss', 'scores/fake': 'd_score_fake', 'scores/real': 'd_score_real',
             'r1_penalty': 'r1_penalty'}
    for i, metrics in enumerate(history):
        for name, value in golden.subset(arrays, f'out/{i}/Loss/').items():
            if name == 'scores/real' and i == 0:
                continue  # averaged there with the score of the R1 phase
            ours = metrics[names[name]]
            assert golden.relative_error(ours, value) < 1e-4, (i, name, ours, value)
    for group, params, table in (('g', state.params_g, TABLE_G),
                                 ('ema', state.ema, TABLE_G),
                                 ('d', state.params_d, TABLE_D)):
        expected = golden.subset(arrays, f'out/2/{group}/')
        if group != 'd':
            # The golden holds noise strengths and planes at their start values.
            start = golden.subset(arrays, 'state/g/')
            expected = {**start, **_without_noise_strength(expected)}
        reference = torch_map.from_torch(expected, table)['params']
        if not materialize:
            reference = published_forms.collapse_branches(reference)
        flat = jax.tree_util.tree_leaves_with_path(reference)
        for (path, array), ours in zip(flat, jax.tree.leaves(params), strict=True):
            error = golden.relative_error(ours, array)
            assert error < 1e-3, (group, jax.tree_util.keystr(path), error)


def test_eight_devices_take_the_step_of_one():
    # Minibatch std compares samples of one device: those that form a group on one
    # device (j, j + 8, j + 16, j + 24) are put on one device of eight.
    spec = ConvSpec()
    models = state_lib.Models(
        Generator(16, 64, 8, spec), Discriminator(16, 64, 8, spec),
        optimizers.lazy_optimizer(1e-3, 4, 9), optimizers.lazy_optimizer(1e-3, 16, 9))
    settings = steps.Settings(batch_size=32, noise='none')
    functions = steps.make_steps(models, settings)
    key = jax.random.key(0)
    start = state_lib.init_state(models, 16, key)
    batch = {
        'image': jax.random.uniform(key, (32, 16, 16, 3), minval=-1.0),
        'mask': jnp.round(jax.random.uniform(jax.random.fold_in(key, 1), (32, 16, 16, 1))),
    }
    arrangement = {1: batch, 8: jax.tree.map(
        lambda x: x.reshape(4, 8, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape), batch)}
    results = {}
    for devices, arranged in arrangement.items():
        state = _replicate(start, devices)
        shards = _shard(arranged, devices)
        state, _ = functions.g(state, shards, None)
        state, _ = functions.d(state, shards)
        state, _ = functions.r1(state, shards)
        results[devices] = unreplicate(state)
    flat = jax.tree_util.tree_leaves_with_path(results[1])
    for (path, one), eight in zip(flat, jax.tree.leaves(results[8]), strict=True):
        error = golden.relative_error(eight, one)
        assert error < 1e-5, (jax.tree_util.keystr(path), error)


class _Painter(nn.Module):
    """The least that takes a generator's place."""

    latents = staticmethod(lambda keys: jnp.zeros((len(keys), 1)))

    @nn.compact
    def __call__(self, x, mode, z):
        image = nn.Dense(3)(nn.tanh(nn.Dense(4)(x)))
        return image, {x.shape[1]: image}


class _Critic(nn.Module):
    """The least that takes a discriminator's place; compares the samples of a group."""

    @nn.compact
    def __call__(self, x):
        x = minibatch_std(nn.tanh(nn.Dense(4)(x)))
        return nn.Dense(1)(nn.tanh(nn.Dense(4)(x)).mean((1, 2)))


def _small_state(side):
    x = jnp.zeros((4, side, side, 4))
    params_g = _Painter().init(jax.random.key(0), x, 'none', None)['params']
    params_d = _Critic().init(jax.random.key(1), x)['params']
    return (state_lib.Models(_Painter(), _Critic(), None, None),
            state_lib.TrainState(
                step=jnp.zeros((), jnp.int32), params_g=params_g, params_d=params_d,
                ema=params_g, variables={}, opt_g=(), opt_d=(), path_length=0.0))


def _published_state(side):
    spec = ConvSpec(branches=0)
    models = state_lib.Models(
        Generator(side, 64, 8, spec), Discriminator(side, 64, 8, spec),
        optimizers.lazy_optimizer(1e-3, 4, 0), optimizers.lazy_optimizer(1e-3, 16, 0))
    return models, state_lib.init_state(models, side, jax.random.key(0))


@pytest.mark.parametrize('prepare', [
    _small_state, pytest.param(_published_state, marks=pytest.mark.slow)])
def test_parts_of_a_batch_give_the_gradients_of_the_whole_in_less_memory(prepare):
    key, side = jax.random.key(0), 16
    models, state = prepare(side)
    batch = {
        'image': jax.random.uniform(key, (16, side, side, 3), minval=-1.0),
        'mask': jnp.round(
            jax.random.uniform(jax.random.fold_in(key, 1), (16, side, side, 1)))}

    def compiled(accumulate):
        settings = steps.Settings(batch_size=16, noise='none', accumulate=accumulate,
                                  reconstruction_weight=1.0)
        return jax.pmap(lambda state, batch: (
            steps.g_gradients(models, settings, None, state, batch, None)[:2],
            steps.d_gradients(models, settings, state, batch),
            steps.r1_gradients(models, settings, state, batch)),
            AXIS, devices=jax.devices()[:1]).lower(*arguments).compile()

    arguments = _replicate(state, 1), _shard(batch, 1)
    # Four groups: two in each part.
    whole, parts = compiled(1), compiled(2)
    expected = jax.tree_util.tree_leaves_with_path(unreplicate(whole(*arguments)))
    found = jax.tree.leaves(unreplicate(parts(*arguments)))
    for (path, one), mean in zip(expected, found, strict=True):
        assert golden.relative_error(mean, one) < 1e-5, jax.tree_util.keystr(path)
    assert (parts.memory_analysis().temp_size_in_bytes
            < 0.7 * whole.memory_analysis().temp_size_in_bytes)


def test_parts_are_whole_groups_and_draw_anew():
    batch, key = jnp.arange(24.0), jax.random.key(0)
    # Groups of 24 are j, j + 6, j + 12, j + 18; three parts have two groups each.
    largest = lambda batch, fold: (batch.max(), jax.random.uniform(fold(key)))
    top, drawn = steps.over_parts(3, largest, batch)
    assert top == (19 + 21 + 23) / 3
    np.testing.assert_allclose(drawn, np.mean([
        jax.random.uniform(jax.random.fold_in(key, i)) for i in range(3)]), rtol=1e-6)
    assert steps.over_parts(1, largest, batch) == (23, jax.random.uniform(key))
    with pytest.raises(ValueError, match='a divisor of 6, the number of groups of 4'):
        steps.over_parts(4, largest, batch)


def test_bfloat16_steps_lower_under_strict_promotion_and_keep_float32_state():
    # Lowering traces forward, backward and R1's second order; nothing is compiled.
    spec = ConvSpec(dtype=jnp.bfloat16)
    models = state_lib.Models(
        Generator(16, 64, 8, spec), Discriminator(16, 64, 8, spec),
        optimizers.lazy_optimizer(1e-3, 4, 9), optimizers.lazy_optimizer(1e-3, 16, 9))
    functions = steps.make_steps(models, steps.Settings(batch_size=4))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype),
                            state_lib.abstract_state(models, 16))
    image = jax.ShapeDtypeStruct((1, 4, 16, 16, 3), jnp.float32)
    batch = {'image': image, 'mask': jax.ShapeDtypeStruct((1, 4, 16, 16, 1), jnp.float32)}
    for function, extra in ((functions.g, (None,)), (functions.d, ()), (functions.r1, ())):
        state, metrics = function.lower(abstract, batch, *extra).out_info
        assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(
            lambda x: x.dtype, abstract)
        assert {x.dtype for x in jax.tree.leaves(metrics)} == {jnp.dtype(jnp.float32)}


def test_bfloat16_gradients_point_where_float32_gradients_do():
    teacher, teacher_variables = _teacher()
    gradients = []
    for dtype in (jnp.float32, jnp.bfloat16):
        models = _models(False, dtype)
        function = jax.pmap(functools.partial(
            steps.g_gradients, models, SETTINGS, teacher), AXIS)
        gradients.append(unreplicate(function(
            _replicate(_state(models, False), 1), _shard(_batch(0), 1),
            _replicate(teacher_variables, 1))[0]))
    # A layer's kernels and bias are one vector.  Without noise its strength has no
    # gradient.
    layers = [{}, {}]
    for vectors, gradient in zip(layers, gradients):
        for path, array in jax.tree_util.tree_leaves_with_path(gradient):
            vectors.setdefault(path[:3], []).append(np.ravel(array))
    for path, parts in layers[0].items():
        full, half = np.concatenate(parts), np.concatenate(layers[1][path])
        cosine = full @ half / (np.linalg.norm(full) * np.linalg.norm(half))
        assert cosine >= 0.99, (jax.tree_util.keystr(path), cosine)


def test_sanitized_gradients():
    x = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 2.0])
    np.testing.assert_array_equal(optimizers.sanitize(x), [0, 1e5, -1e5, 2])


def test_optimizer_of_a_branch_sum_follows_its_branches():
    key = jax.random.key(0)
    w = jax.random.normal(key, (9, 4, 3))
    branches = {'a': {'branches': w, 'bias': w[0]}}
    summed = {'a': {'branch_sum': w.sum(0) / 3, 'bias': w[0]}}
    tx = optimizers.make_optimizer(1e-2, 0.9, branches=9)
    state_b, state_s = tx.init(branches), tx.init(summed)
    for i in range(5):
        g = jax.random.normal(jax.random.fold_in(key, i), (4, 3))
        g = g.at[0, 0].set(jnp.inf).at[0, 1].set(jnp.nan)
        update, state_b = tx.update(
            {'a': {'branches': jnp.stack([g / 3] * 9), 'bias': g}}, state_b)
        branches = jax.tree.map(jnp.add, branches, update)
        update, state_s = tx.update({'a': {'branch_sum': g, 'bias': g}}, state_s)
        summed = jax.tree.map(jnp.add, summed, update)
    np.testing.assert_allclose(
        branches['a']['branches'].sum(0) / 3, summed['a']['branch_sum'], rtol=1e-5)
    np.testing.assert_allclose(branches['a']['bias'], summed['a']['bias'], rtol=1e-6)


def test_ema_decay():
    settings = steps.Settings(batch_size=32, ema_kimg=20.0)
    step = jnp.asarray(10, jnp.int32)
    np.testing.assert_allclose(steps.ema_decay(settings, step), 0.5**(32 / 20000), rtol=1e-6)
    ramp = dataclasses.replace(settings, ema_rampup=0.05)
    np.testing.assert_allclose(steps.ema_decay(ramp, step), 0.5**(32 / 16), rtol=1e-6)
    assert steps.ema_decay(ramp, jnp.asarray(0, jnp.int32)) == 0


def test_bank_masks_are_mixed_in_and_free_form_ones_stay_as_they_were():
    """The draws of free-form masks are those without a bank."""
    bank = np.packbits(np.eye(16, dtype=np.uint8)[None] == 0, axis=-1)
    settings = steps.Settings(hole_range=(0.05, 0.6), brush_width=(1, 4), bank_share=0.5)
    images = np.zeros((8, 4, 16, 16, 3), np.uint8)
    draw = lambda *bank: np.asarray(jax.pmap(
        lambda images, *bank: steps.prepare_batch(
            settings, jnp.int32(3), images, *bank)['mask'], steps.AXIS)(
                images, *bank)).reshape(32, 16, 16)
    free, mixed = draw(), draw(np.stack([bank] * 8))
    same = (free == mixed).all((1, 2))
    from_bank = (mixed == 0).sum((1, 2)) == 16
    assert (same | from_bank).all() and 6 < same.sum() < 26
