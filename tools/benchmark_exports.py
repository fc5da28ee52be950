"""Times the ONNX exports of the published sizes in onnxruntime on CPU.

    python tools/benchmark_exports.py --resolutions=256,512 --threads=2

Weights are random: no operator's time depends on them. For each resolution, in turns
so that whatever else the machine does hits all alike:

* plain: the published architecture as its export writes it (zero insertion as nearest
  resize times a mask, 4x4 filters, gains, noise strengths and clamps as operators of
  their own), the standard to compare with;
* core: the graph of tools/to_torch.py --formats=onnx, its float16 file, and the same
  graph with --keep_clamps;
* pipeline: u8 in, u8 out, on square pictures of the model's resolution, 1080p and
  12 megapixels with a hole of a fifth of each side;
* openvino_plain and openvino_core: the first two graphs; openvino, litert, executorch,
  ncnn: the files of these formats; executorch_plain: the architecture as it is, handed
  to XNNPACK; each where its package is installed;
* torchscript: migan_traced.pt; jax: the deployed generator, compiled for this machine
  (all its cores).

Prints medians and ratios of medians, and file sizes; the last line is JSON.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
import functools
import importlib.util
import io
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

from absl import flags
import jax
import ml_collections
import numpy as np
import onnx
import onnxruntime
import torch
from torch.nn import functional

from migan_jax.configs import default
from migan_jax import cli
from migan_jax import quiet
from migan_jax.export import clamps
from migan_jax.export import onnx_core
from migan_jax.export import onnx_pipeline
from migan_jax.export import onnx_half
from migan_jax.model import topology
from migan_jax.export import torch_module
from migan_jax.model import build
from migan_jax.model import io as model_io
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2

PICTURES = {'1080p': (1080, 1920), '12MP': (3000, 4000)}


def random_variables(config: ml_collections.ConfigDict, seed: int = 0) -> dict[str, Any]:
    """Deployed variables of a model with random weights, all strengths non-zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        array = np.asarray(rng.standard_normal(leaf.shape), np.float32)
        if path[-1].key != 'kernel':
            return np.float32(0.1) * array
        if build.is_comodgan(config):
            return array                # it scales them when it runs
        return array / np.sqrt(np.square(array).sum((0, 1, 2), keepdims=True))

    return jax.tree_util.tree_map_with_path(
        draw, build.abstract_variables(config, fused=True))


class _PlainBuilder:
    """The published architecture as it is, operator by operator.

    See `topology.Operators`; a value is its name in the graph.
    """

    def __init__(self, variables, resolution):
        self.graph = onnx_core.GraphBuilder()
        self.variables = variables
        self.resolution = resolution

    def op(self, op_type, *inputs, **attributes):
        return self.graph.op(op_type, *inputs, **attributes)

    def activate(self, x):
        x = self.op('LeakyRelu', x, alpha=NEGATIVE_SLOPE)
        x = self.op('Mul', x, np.float32(SQRT2))
        return self.op('Clip', x, np.float32(-CLAMP), np.float32(CLAMP))

    def fir(self, x, channels, gain, stride, before, after):
        x = self.op('Pad', x, np.array([0, 0, before, before, 0, 0, after, after]))
        taps = (gain * np.outer(FIR_TAPS, FIR_TAPS)).astype(np.float32)
        return self.graph.conv(x, np.tile(taps, (channels, 1, 1, 1)), groups=channels,
                               stride=stride)

    def up(self, x, channels, resolution):
        x = self.op('Resize', x, '', np.array([1, 1, 2, 2], np.float32), mode='nearest',
                    coordinate_transformation_mode='asymmetric', nearest_mode='floor')
        inserted = np.zeros((1, 1, resolution, resolution), np.float32)
        inserted[:, :, ::2, ::2] = 1
        return self.fir(self.op('Mul', x, inserted), channels, 4, 1, 2, 1)

    def block(self, x, layer):
        params = layer.of(self.variables['params'])
        _, _, ci, co = params['pointwise']['kernel'].shape
        kernel = params['depthwise']['kernel'].transpose(3, 2, 0, 1)
        x = self.activate(
            self.graph.conv(x, kernel, params['bias'], groups=ci, padding=1))
        if layer.down:
            x = self.fir(x, ci, 1, 2, 1, 1)
        x = self.graph.conv(x, params['pointwise']['kernel'].transpose(3, 2, 0, 1))
        if layer.up:
            x = self.up(x, co, layer.resolution)
        if 'noise' in params:
            plane = layer.of(self.variables['noise'])['noise']['const']
            x = self.op('Add', x, self.op('Mul', plane, params['noise']['strength']))
        return self.activate(x)

    def torgb(self, x, layer):
        params = layer.of(self.variables['params'])
        return self.graph.conv(
            x, params['pointwise']['kernel'].transpose(3, 2, 0, 1), params['bias'])

    def fromrgb(self, x, layer):
        return self.activate(self.torgb(x, layer))

    def add(self, x, y):
        return self.op('Add', x, y)

    def up2(self, image, resolution):
        return self.up(image, 3, resolution)

    def model(self):
        """onnx.ModelProto, `input` and `output` as in `onnx_core.build_core`."""
        image = topology.walk(self, 'input', self.resolution)
        float32, sides = onnx.TensorProto.FLOAT, [self.resolution] * 2
        self.op('Identity', image, output='output')
        return self.graph.model(
            'plain', {'input': (float32, ['N', 4, *sides])},
            {'output': (float32, ['N', 3, *sides])})


class _PlainModule(torch.nn.Module):
    """The same in PyTorch. See `topology.Operators`; a value is a tensor."""

    def __init__(self, variables, resolution):
        super().__init__()
        # All kernels are made here: XNNPACK takes none that the graph computes.
        self.params = jax.tree.map(
            lambda leaf: torch.from_numpy(np.array(
                onnx_core.oihw(leaf) if np.ndim(leaf) == 4 else leaf)),
            variables['params'])
        self.planes = jax.tree.map(
            lambda leaf: torch.from_numpy(np.array(leaf)), variables['noise'])
        self.resolution = resolution
        taps = np.outer(FIR_TAPS, FIR_TAPS).astype(np.float32)
        counts = {3} | {leaf.shape[-1] for leaf in jax.tree.leaves(variables['params'])
                        if np.ndim(leaf) == 4}
        self.taps = {
            (channels, gain): torch.from_numpy(np.tile(gain * taps, (channels, 1, 1, 1)))
            for channels in counts for gain in (1, 4)}
        inserted = torch.zeros(1, 1, resolution, resolution)
        inserted[..., ::2, ::2] = 1
        self.register_buffer('inserted', inserted)

    def forward(self, x):
        return topology.walk(self, x, self.resolution)

    def activate(self, x):
        x = functional.leaky_relu(x, NEGATIVE_SLOPE) * SQRT2
        return x.clamp(-CLAMP, CLAMP)

    def fir(self, x, gain, stride, before, after):
        channels = x.shape[1]
        return functional.conv2d(
            functional.pad(x, (before, after, before, after)),
            self.taps[channels, gain], stride=stride, groups=channels)

    def up2(self, image, resolution):
        x = functional.interpolate(image, scale_factor=2.0)
        x = x * self.inserted[..., :resolution, :resolution]
        return self.fir(x, 4, 1, 2, 1)

    def block(self, x, layer):
        params = layer.of(self.params)
        x = self.activate(functional.conv2d(
            x, params['depthwise']['kernel'], params['bias'], padding=1,
            groups=x.shape[1]))
        if layer.down:
            x = self.fir(x, 1, 2, 1, 1)
        x = functional.conv2d(x, params['pointwise']['kernel'])
        if layer.up:
            x = self.up2(x, layer.resolution)
        if 'noise' in params:
            plane = layer.of(self.planes)['noise']['const']
            x = x + plane * params['noise']['strength']
        return self.activate(x)

    def torgb(self, x, layer):
        params = layer.of(self.params)
        return functional.conv2d(x, params['pointwise']['kernel'], params['bias'])

    def fromrgb(self, x, layer):
        return self.activate(self.torgb(x, layer))

    def add(self, x, y):
        return x + y


def session(model: onnx.ModelProto, threads: int,
            profile: str | None = None) -> tuple[onnxruntime.InferenceSession, float]:
    """An onnxruntime session and the size of the file in MB.

    `profile`: prefix of a file for the time of every operator, or None.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(
        data, options, providers=['CPUExecutionProvider']), len(data) / 1e6


def picture_feed(height: int, width: int) -> dict[str, np.ndarray]:
    """A picture with a hole of a fifth of each side in the middle; 255 = known."""
    rng = np.random.default_rng(0)
    mask = np.full((1, 1, height, width), 255, np.uint8)
    mask[..., 2 * height // 5:3 * height // 5, 2 * width // 5:3 * width // 5] = 0
    return {'image': rng.integers(0, 256, (1, 3, height, width), np.uint8),
            'mask': mask}


def time_in_turns(
        jobs: Mapping[Hashable, Callable[[], Any]], repeats: int,
        clock: Callable[[], float] = time.perf_counter) -> dict[Hashable, list[float]]:
    """Times functions in turns, every time after a call that is not measured.

    As in an app that paints one picture after another; else a call would also pay for
    what the others have left in the caches.

    Args:
      jobs: {name: function without arguments}.
      repeats: measured calls of each.
      clock: of seconds.

    Returns:
      {name: list of seconds}.
    """
    seconds = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            job()
            began = clock()
            job()
            seconds[name].append(clock() - began)
    return seconds


def torchscript_job(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
                    x: np.ndarray, threads: int) -> Callable[[], None]:
    """Function that runs the traced module on f32[1, 4, R, R]."""
    torch.set_num_threads(threads)
    with quiet.torchscript_is_deprecated():
        module = torch_module.trace(torch_module.build_module(config, variables))
    x = torch.from_numpy(x)

    def run():
        with torch.inference_mode():
            module(x)
    return run


def network_inputs(config: ml_collections.ConfigDict) -> list[np.ndarray]:
    """One image's input f32[1, R, R, 4] and, for Co-Mod-GAN, its z f32[1, z_dim].

    Mask 1 = known; the hole is a square in the middle.
    """
    rng = np.random.default_rng(0)
    r = config.model.resolution
    mask = np.ones((1, r, r, 1), np.float32)
    mask[:, r // 4:3 * r // 4, r // 4:3 * r // 4] = 0
    image = rng.uniform(-1, 1, (1, r, r, 3)).astype(np.float32)
    x = [model_io.model_input(image, mask)]
    if build.is_comodgan(config):
        x.append(rng.standard_normal((1, config.model.comodgan.z_dim), np.float32))
    return x


def compile_jax(config: ml_collections.ConfigDict,
                variables: Mapping[str, Any]) -> jax.stages.Compiled:
    """The compiled function of variables and `network_inputs`."""
    generator = build.build_generator(config, fused=True)
    paint = functools.partial(build.deployed_forward, generator)
    return jax.jit(paint).lower(variables, *network_inputs(config)).compile()


def jax_job(config: ml_collections.ConfigDict, compiled: jax.stages.Compiled,
            variables: Mapping[str, Any]) -> Callable[[], jax.Array]:
    """A call of the compiled function, waited for."""
    arguments = jax.device_put((variables, *network_inputs(config)))
    return lambda: jax.block_until_ready(compiled(*arguments))


def other_runtimes(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
                   largest: Mapping[str, float], x: np.ndarray, plain: onnx.ModelProto,
                   core: onnx.ModelProto, threads: int) -> dict[str, Callable[[], Any]]:
    """Jobs of the runtimes that are installed; the others are left out.

    Args:
      config, variables: of the deployed generator.
      largest: of `clamps.measure`.
      x: f32[1, 4, R, R].
      plain, core: onnx.ModelProto.
      threads: of each.

    Returns:
      {name: function that paints x}.
    """
    jobs = {}
    nhwc = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        if importlib.util.find_spec('openvino'):
            own = onnx_core.build_core(
                config, variables, largest=largest, broadcast_noise=True)
            for name, model in (('openvino_plain', plain), ('openvino_core', core),
                                ('openvino', own)):
                jobs[name] = _openvino_job(model, x, threads)
        if importlib.util.find_spec('ai_edge_litert'):
            from ai_edge_litert import interpreter

            from migan_jax.export import tflite

            content = tflite.build_tflite(config, variables, largest=largest)
            runner = interpreter.Interpreter(
                model_content=content, num_threads=threads)
            runner.allocate_tensors()
            taken = runner.get_input_details()[0]['index']

            def litert():
                runner.set_tensor(taken, nhwc)
                runner.invoke()
            jobs['litert'] = litert
        if importlib.util.find_spec('executorch'):
            # On Linux its threads are one per core, unless told otherwise.
            from executorch.extension.pybindings import portable_lib

            from migan_jax.export import executorch

            portable_lib._unsafe_reset_threadpool(threads)
            file = path / 'migan.pte'
            file.write_bytes(executorch.build_executorch(config, variables, largest))
            jobs['executorch'] = functools.partial(
                executorch.load_generator(file), nhwc)
            file = path / 'plain.pte'
            program, _ = executorch.program_of(
                _PlainModule(variables, config.model.resolution))
            file.write_bytes(program)
            jobs['executorch_plain'] = functools.partial(
                executorch.load_generator(file), nhwc)
        if importlib.util.find_spec('pnnx') and importlib.util.find_spec('ncnn'):
            from migan_jax.export import ncnn_files

            ncnn_files.write_ncnn(
                config, variables, path / 'ncnn', half=False, largest=largest)
            jobs['ncnn'] = functools.partial(
                ncnn_files.load_generator(path / 'ncnn', threads), nhwc)
    return jobs


def _openvino_job(model, x, threads):
    with quiet.importing_openvino():
        import openvino

    core = openvino.Core()
    core.set_property('CPU', {'INFERENCE_NUM_THREADS': threads,
                              'INFERENCE_PRECISION_HINT': 'f32'})
    compiled = core.compile_model(
        core.read_model(io.BytesIO(model.SerializeToString())), 'CPU')
    request = compiled.create_infer_request()
    return lambda: request.infer({0: x})


def largest_difference(runners: Sequence[onnxruntime.InferenceSession],
                       feed: Mapping[str, np.ndarray]) -> float:
    """How far the outputs of two sessions differ at most, over the largest value."""
    first, second = (runner.run(None, feed)[0] for runner in runners)
    return float(np.abs(first - second).max() / np.abs(first).max())


def measure(resolution: int, threads: int, repeats: int,
            clock: Callable[[], float] = time.perf_counter,
            config: ml_collections.ConfigDict | None = None,
            pictures: Mapping[str, tuple[int, int]] | None = None) -> dict[str, float]:
    """Times and sizes at one resolution.

    Args:
      resolution: R.
      threads: of onnxruntime.
      repeats: runs of each graph.
      clock: of seconds.
      config: ConfigDict; the published widths by default.
      pictures: {name: (height, width)} for the pipeline besides R x R; 1080p and 12
        megapixels by default.

    Returns:
      dict of seconds, ratios and MB.
    """
    config = config or default.get_config()
    config.model.resolution = resolution
    # As in the published weights.
    config.model.noise_at_4x4 = False
    variables = random_variables(config)
    largest = clamps.measure(config, variables)
    core_model = onnx_core.build_core(config, variables, largest=largest)
    plain_model = _PlainBuilder(variables, resolution).model()
    plain, plain_mb = session(plain_model, threads)
    core, core_mb = session(core_model, threads)
    half, half_mb = session(onnx_half.to_half(core_model), threads)
    clamped, _ = session(onnx_core.build_core(config, variables), threads)
    pipeline, pipeline_mb = session(
        onnx_pipeline.build_pipeline(config, variables, largest=largest), threads)
    x = {'input': np.ascontiguousarray(network_inputs(config)[0].transpose(0, 3, 1, 2))}
    sizes = {f'{resolution}x{resolution}': (resolution, resolution),
             **(PICTURES if pictures is None else pictures)}
    jobs = {name: functools.partial(runner.run, None, x) for name, runner in (
        ('plain', plain), ('core', core), ('half', half), ('clamped', clamped))}
    jobs['torchscript'] = torchscript_job(config, variables, x['input'], threads)
    jobs['jax'] = jax_job(config, compile_jax(config, variables), variables)
    jobs |= other_runtimes(config, variables, largest, x['input'], plain_model,
                           core_model, threads)
    for name, size in sizes.items():
        jobs[f'pipeline_{name}'] = functools.partial(
            pipeline.run, None, picture_feed(*size))
    seconds = {name: statistics.median(values) for name, values in time_in_turns(
        jobs, repeats, clock).items()}
    result = {
        'resolution': resolution, 'threads': threads,
        **{f'{name}_s': value for name, value in seconds.items()},
        'plain_over_core': seconds['plain'] / seconds['core'],
        'plain_over_clamped': seconds['plain'] / seconds['clamped'],
        'largest_activation': max(largest.values()),
        'difference_plain_core': largest_difference((plain, core), x),
        'plain_mb': plain_mb, 'core_mb': core_mb, 'half_mb': half_mb,
        'pipeline_mb': pipeline_mb,
    }
    for name in sizes:
        result[f'pipeline_overhead_{name}'] = (
            seconds[f'pipeline_{name}'] / seconds['core'] - 1)
    return result


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    clock = time.process_time if args.cpu_time else time.perf_counter
    threads = 1 if args.cpu_time else args.threads
    results = [measure(int(resolution), threads, args.repeats, clock)
               for resolution in args.resolutions]
    for result in results:
        for name, value in result.items():
            name = name.replace(f'{result["resolution"]}x{result["resolution"]}', 'RxR')
            text = f'{value:.4g}' if isinstance(value, float) else str(value)
            print(f'{name:26} {text}')
        print()
    print(json.dumps(results))


if __name__ == '__main__':
    flags.DEFINE_list('resolutions', ['256', '512'], 'Resolutions of the model.')
    flags.DEFINE_integer('threads', 2, 'Threads of onnxruntime.', lower_bound=1)
    flags.DEFINE_integer('repeats', 9, 'Runs of each graph.', lower_bound=1)
    flags.DEFINE_bool(
        'cpu_time', False,
        'Seconds of CPU time on one thread: for machines that do other work besides.')
    cli.run(main)
