"""Weights out of ONNX graphs: by what they compute, exact, or refused with a reason."""

import collections
import functools
import random

import jax
import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper
import onnxruntime
import pytest

import golden
from migan_jax.weights import torch_map
from migan_jax.export import onnx_core
from migan_jax.export import onnx_half
from migan_jax.weights import onnx_graph
from migan_jax.weights import onnx_import
from migan_jax.export import onnx_pipeline
import published_torch
from tiny import random_deployed
from tiny import tiny_config
from tiny import with_noise

SIDE = 32


@functools.cache
def exported(kind='core', way='nearest', **options):
    return getattr(published_torch, kind)(golden.published_state(), SIDE, way, **options)


def copy_of(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def read(tmp_path, model):
    path = tmp_path / 'model.onnx'
    path.write_bytes(model.SerializeToString())
    return onnx_import.read_file(path)


def check_equal(tensors, state, tolerance=0.0):
    """All weights are there and equal; of noise at least strength times plane."""
    names = {name for name in state if not torch_map.is_constant(name)}
    assert names == set(tensors)
    for name in names:
        assert tensors[name].shape == state[name].shape, name
        if name.endswith('.noise_strength'):
            plane = name.replace('strength', 'const')
            np.testing.assert_allclose(
                tensors[name] * tensors[plane], state[name] * state[plane],
                rtol=max(tolerance, 1e-7), atol=1e-12)
        elif not name.endswith('.noise_const'):
            np.testing.assert_allclose(
                tensors[name], state[name], rtol=tolerance, atol=0, err_msg=name)


# --- the authors' exports -----------------------------------------------------------


@pytest.mark.parametrize('kind, options', [
    ('core', {}), ('core', {'opset': 17}), ('core', {'opset': 10}),
    ('pipeline', {}), ('pipeline', {'smooth': True, 'opset': 17})])
@pytest.mark.parametrize('way', ['nearest', 'transposed'])
def test_published_exports_come_back_exactly(tmp_path, kind, way, options):
    file = read(tmp_path, exported(kind, way, **options))
    check_equal(file.tensors, golden.published_state())
    assert file.kind == 'ONNX graph'
    # The blur of the pipeline is no weight, and is said to be left.
    assert any('blur [1, 1, 5, 5]' in note for note in file.notes) == (
        'smooth' in options)


def test_without_constant_folding_noise_keeps_its_strength(tmp_path):
    file = read(tmp_path, exported(fold=False))
    for name, array in file.tensors.items():
        np.testing.assert_array_equal(array, golden.published_state()[name], err_msg=name)


def test_the_stand_in_is_the_published_network():
    arrays = golden.load('generator_inference')
    for way in ('nearest', 'transposed'):
        session = onnxruntime.InferenceSession(
            exported('core', way).SerializeToString())
        image, = session.run(None, {'input': arrays['in/x'][:1]})
        assert golden.relative_error(image, arrays['out/image'][:1]) < 1e-5


# --- what exporters and optimisers do to them ----------------------------------------


def test_names_and_order_of_initialisers_tell_nothing(tmp_path):
    model = copy_of(exported('pipeline'))
    names = [tensor.name for tensor in model.graph.initializer]
    shuffled = list(names)
    random.Random(0).shuffle(shuffled)
    # The names of others: whoever goes by them reads the wrong weights.
    new = dict(zip(names, shuffled))
    for tensor in model.graph.initializer:
        tensor.name = new[tensor.name]
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.name = ''
    ordered = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(ordered)
    check_equal(read(tmp_path, model).tensors, golden.published_state())


@pytest.mark.parametrize('form', ['right', 'left'])
def test_pointwise_layers_as_matrix_products(tmp_path, form):
    """Square matrices, too: which axis is which follows from the product."""
    model = copy_of(exported())
    weights = {t.name: t for t in model.graph.initializer}
    nodes, changed = [], 0
    for node in model.graph.node:
        kernel = weights.get(node.input[1]) if node.op_type == 'Conv' else None
        if kernel is None or list(kernel.dims[2:]) != [1, 1] or kernel.dims[1] == 1:
            nodes.append(node)
            continue
        matrix = numpy_helper.to_array(kernel)[:, :, 0, 0]
        changed += matrix.shape[0] == matrix.shape[1]
        nodes += (products if form == 'right' else flat_products)(
            model, node, matrix, f'matrix_{len(nodes)}')
    assert changed > 5
    replace_nodes(model, nodes)
    drop_unread(model)
    check_equal(read(tmp_path, model).tensors, golden.published_state())


def products(model, node, matrix, name):
    """[N, H, W, ci] times [ci, co], plus a bias."""
    model.graph.initializer.append(numpy_helper.from_array(
        np.ascontiguousarray(matrix.T), name))
    nodes = [
        helper.make_node('Transpose', [node.input[0]], [f'{name}_x'],
                         perm=[0, 2, 3, 1]),
        helper.make_node('MatMul', [f'{name}_x', name], [f'{name}_y'])]
    last = f'{name}_y'
    if len(node.input) > 2:
        nodes.append(helper.make_node('Add', [last, node.input[2]], [f'{name}_z']))
        last = f'{name}_z'
    return [*nodes, helper.make_node('Transpose', [last], list(node.output),
                                     perm=[0, 3, 1, 2])]


def flat_products(model, node, matrix, name):
    """[co, ci] times [N, ci, H W], the bias added as [co, 1, 1]."""
    for array, suffix in ((matrix, ''), (np.array([0, 0, -1]), '_flat'),
                          (np.array([0, 0, SIDE, SIDE]), '_picture')):
        model.graph.initializer.append(numpy_helper.from_array(
            np.ascontiguousarray(array), name + suffix))
    last = list(node.output) if len(node.input) == 2 else [f'{name}_z']
    nodes = [
        helper.make_node('Reshape', [node.input[0], f'{name}_flat'], [f'{name}_x']),
        helper.make_node('MatMul', [name, f'{name}_x'], [f'{name}_y']),
        helper.make_node('Reshape', [f'{name}_y', f'{name}_picture'], last)]
    if len(node.input) > 2:
        bias, = (t for t in model.graph.initializer if t.name == node.input[2])
        model.graph.initializer.append(numpy_helper.from_array(
            numpy_helper.to_array(bias).reshape(-1, 1, 1), f'{name}_bias'))
        nodes.append(helper.make_node('Add', [f'{name}_bias', *last],
                                      list(node.output)))
    return nodes


def replace_nodes(model, nodes):
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def drop_unread(model):
    """Removes the initialisers that no node reads."""
    names = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


@pytest.mark.parametrize('way', ['nearest', 'transposed'])
def test_after_onnxruntime_has_optimised_it(tmp_path, way):
    """Paddings fused into convolutions, constants folded and renamed."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
    model = exported('pipeline', way, fold=False)
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    optimised = onnx.load(tmp_path / 'optimised.onnx')
    assert len(optimised.graph.node) < len(model.graph.node)
    check_equal(read(tmp_path, optimised).tensors, golden.published_state(), 3e-7)


def test_upsampling_as_one_transposed_convolution(tmp_path):
    model = copy_of(exported('core', 'transposed'))
    graph = onnx_graph.Graph(model)
    nodes = []
    for node in model.graph.node:
        below = graph.producer(node.input[0]) if node.op_type == 'Conv' else None
        if below is not None and below.op_type == 'Pad':
            zeros = graph.producer(below.input[0])
            assert zeros.op_type == 'ConvTranspose'
            node = helper.make_node(
                'ConvTranspose', [zeros.input[0], node.input[1]], list(node.output),
                strides=[2, 2], pads=[1, 1, 1, 1],
                group=len(graph.constant(node.input[1])))
        nodes.append(node)
    replace_nodes(model, nodes)
    check_equal(read(tmp_path, model).tensors, golden.published_state())


# --- our own exports ----------------------------------------------------------------


@functools.cache
def ours(noise_at_4x4=True, strength=0.4):
    """Config and variables of a drawn generator whose noise has a strength."""
    config = tiny_config(1)
    with config.unlocked():
        config.model.resolution, config.model.ch_base = SIDE, 128
        config.model.noise_at_4x4 = noise_at_4x4
    return config, with_noise(random_deployed(config), strength)


def state_of(config, variables):
    return torch_map.to_torch(variables, torch_map.generator_table(
        SIDE, branches=0, noise_at_4x4=config.model.noise_at_4x4, fused=True))


@pytest.mark.parametrize('noise_at_4x4', [True, False])
@pytest.mark.parametrize('largest', [None, collections.defaultdict(float)])
def test_our_core_comes_back(tmp_path, noise_at_4x4, largest):
    config, variables = ours(noise_at_4x4)
    model = onnx_core.build_core(config, variables, largest=largest)
    clips = sum(node.op_type == 'Clip' for node in model.graph.node)
    assert bool(clips) == (largest is None)
    file = read(tmp_path, model)
    state = state_of(config, variables)
    check_equal(file.tensors, state, 1e-6)
    # Nothing was folded into these.
    for name in state:
        if name.endswith('.bias') or '.fromrgb.' in name:
            np.testing.assert_array_equal(file.tensors[name], state[name])


@pytest.mark.parametrize('build', [
    functools.partial(onnx_core.build_core, dynamic_size=True),
    onnx_pipeline.build_pipeline])
def test_our_other_graphs_come_back(tmp_path, build):
    config, variables = ours()
    file = read(tmp_path, build(config, variables))
    check_equal(file.tensors, state_of(config, variables), 1e-6)


def test_our_half_weights_come_back_as_they_were_stored(tmp_path):
    config, variables = ours()
    model = onnx_core.build_core(config, variables)
    file = read(tmp_path, onnx_half.to_half(model))
    assert file.kind == 'ONNX graph with float16 weights'
    state = state_of(config, variables)
    for name in state:
        if 'noise' not in name:
            np.testing.assert_allclose(file.tensors[name], state[name], rtol=6e-4,
                                       atol=1e-7)


def test_noise_of_strength_zero_is_in_no_graph(tmp_path):
    config, variables = ours(strength=0.0)
    file = read(tmp_path, onnx_core.build_core(config, variables))
    assert any('6 layers have no noise' in note for note in file.notes)
    # Neither can a graph tell noise of strength 0 from none in the 4 x 4 blocks.
    state = {name: array for name, array in state_of(config, variables).items()
             if not (name.startswith('synthesis.b4') and 'noise' in name)}
    check_equal(file.tensors, state, 1e-6)


# --- refused ------------------------------------------------------------------------


def refused(tmp_path, model):
    with pytest.raises(onnx_import.OnnxFileError) as caught:
        read(tmp_path, model)
    message = str(caught.value)
    assert '\n' not in message and message.startswith(str(tmp_path))
    return message


def edited(change, kind='core'):
    model = copy_of(exported(kind))
    change(model)
    return model


def nodes_of(model, op_type):
    return [node for node in model.graph.node if node.op_type == op_type]


def set_attribute(node, name, value):
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def weights_of(model, shape):
    return [t for t in model.graph.initializer if list(t.dims) == list(shape)]


def change_weights(model, shape, change):
    for tensor in weights_of(model, shape):
        tensor.CopyFrom(numpy_helper.from_array(
            change(numpy_helper.to_array(tensor)).astype(np.float32), tensor.name))


def swap_channels(model):
    joined, = [node for node in nodes_of(model, 'Concat')
               if onnx_graph.attributes(node)['axis'] == 1]
    joined.input[:] = list(reversed(joined.input))


def rewire_skip(model):
    adds = nodes_of(model, 'Add')
    graph = onnx_graph.Graph(model)
    first = next(n for n in adds if all(graph.constant(x) is None for x in n.input))
    # The skip feature of another resolution with as many channels.
    other = next(n for n in adds[adds.index(first) + 1:]
                 if all(graph.constant(x) is None for x in n.input))
    other.input[1] = first.input[1]


def two_generators(model):
    other = copy_of(model)
    for node in other.graph.node:
        node.input[:] = [f'{x}_2' if x and x not in ('input', 'mask') else x
                         for x in node.input]
        node.output[:] = [f'{x}_2' for x in node.output]
    for tensor in other.graph.initializer:
        tensor.name += '_2'
    model.graph.node.extend(other.graph.node)
    model.graph.initializer.extend(other.graph.initializer)


@pytest.mark.parametrize('change, expected', [
    (two_generators, '2 values could be the picture of a generator'),
    (rewire_skip, 'skip feature'),
    (lambda m: set_attribute(nodes_of(m, 'LeakyRelu')[5], 'alpha', 0.1), 'slope 0.1'),
    (lambda m: nodes_of(m, 'LeakyRelu')[5].__setattr__('op_type', 'Elu'),
     'should be a leaky ReLU'),
    (lambda m: change_weights(m, (3, 1, 4, 4), lambda w: w[..., ::-1] * 0.9),
     'no value of the graph is a picture'),
    (lambda m: change_weights(m, (16, 1, 4, 4), lambda w: w + 0.1),
     'should be the upsampling'),
    (lambda m: set_attribute(nodes_of(m, 'Resize')[0], 'nearest_mode', 'ceil'),
     'repeat every pixel'),
    (lambda m: m.graph.initializer.append(numpy_helper.from_array(
        np.ones((64, 64), np.float32), 'surplus')), 'surplus [64, 64]'),
    (lambda m: nodes_of(m, 'Conv')[7].__setattr__('op_type', 'ConvInteger'),
     'quantised'),
    (lambda m: change_weights(m, (32, 32, 1, 1), lambda w: w * np.nan), 'NaN'),
    (lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].__setattr__(
        'dim_value', 64), 'expected [N, 4, 32, 32]'),
])
def test_other_graphs_are_refused_with_a_reason(tmp_path, change, expected):
    assert expected in refused(tmp_path, edited(change))


def test_channels_in_another_order_are_refused(tmp_path):
    message = refused(tmp_path, edited(swap_channels, 'pipeline'))
    assert 'expected the mask alone, then the picture' in message


def test_another_clamp_is_refused(tmp_path):
    config, variables = ours()
    model = onnx_core.build_core(config, jax.tree.map(lambda x: x, variables))
    clip = nodes_of(model, 'Clip')[3]
    for name, sign in zip(clip.input[1:3], (-1, 1)):
        model.graph.initializer.append(numpy_helper.from_array(
            np.float32(sign * 100), f'{name}_less'))
    clip.input[1:] = [f'{name}_less' for name in clip.input[1:3]]
    assert 'clamped at 100' in refused(tmp_path, model)


def test_another_network(tmp_path):
    node = helper.make_node('Relu', ['x'], ['y'])
    value = functools.partial(helper.make_tensor_value_info, shape=[1, 3],
                              elem_type=onnx.TensorProto.FLOAT)
    graph = helper.make_graph([node], 'g', [value('x')], [value('y')])
    model = helper.make_model(graph)
    assert 'it is no MI-GAN generator' in refused(tmp_path, model)


def test_weights_in_another_file(tmp_path):
    model = copy_of(exported())
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='/etc/passwd')
    tensor.ClearField('raw_data')
    assert 'another file' in refused(tmp_path, model)


@pytest.mark.parametrize('content', [
    b'', b'<html>404</html>', b'version https://git-lfs.github.com/spec/v1\n'])
def test_no_onnx_file(tmp_path, content):
    (tmp_path / 'model.onnx').write_bytes(content)
    with pytest.raises(onnx_import.OnnxFileError, match='download or write it again'):
        onnx_import.read_file(tmp_path / 'model.onnx')


def test_truncated_and_missing(tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_bytes(exported().SerializeToString()[:-5000])
    with pytest.raises(onnx_import.OnnxFileError):
        onnx_import.read_file(path)
    with pytest.raises(onnx_import.OnnxFileError, match='is missing'):
        onnx_import.read_file(tmp_path / 'other.onnx')


def test_constants_that_would_fill_the_memory_are_not_worked_out(tmp_path):
    model = copy_of(exported())
    conv = nodes_of(model, 'Conv')[4]
    model.graph.initializer.append(numpy_helper.from_array(
        np.array([2**31] * 4), 'huge_shape'))
    model.graph.node.insert(0, helper.make_node('ConstantOfShape', ['huge_shape'],
                                                ['huge']))
    conv.input[1] = 'huge'
    assert 'should be' in refused(tmp_path, model)
