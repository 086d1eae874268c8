"""Whole networks: merged inference and a training step, beside equal networks of other runtimes."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unireplknet_jax.benchmark import detector, runtimes
from unireplknet_jax.benchmark.timing import jax_program, measure, torch_and_device, torch_program
from unireplknet_jax.models.prepare import prepare
from unireplknet_jax.models.program import compile_program
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import trunk_of, with_trunk
from unireplknet_jax.nn.block import DepthwiseConv, DilatedReparamBlock
from unireplknet_jax.nn.cascade import CascadeRCNN
from unireplknet_jax.nn.upernet import AUXILIARY_WEIGHT
from unireplknet_jax.ops.segmentation import pixel_losses
from unireplknet_jax.tasks.base import get_task

# The task whose networks are timed -> the side of its pictures and the classes of the published ones.
TASKS = {"classification": (224, 1000), "segmentation": (512, 150), "detection": (800, 80)}
_UNMERGED = "training form"  # how the names of what is timed end, where it is not merged


def network_of(task, name, dtype="float32"):
    """The module of a published size in a task; ValueError for a task whose networks are not timed."""
    if task not in TASKS:
        raise ValueError(f"--task {task!r} cannot be timed; it takes one of {', '.join(TASKS)}.")
    model = {"name": name, "num_classes": TASKS[task][1], "dtype": jnp.dtype(dtype).name}
    return get_task(task, model=model).module()


def measure_inference(
    name, batch, size=224, dtype="float32", rounds=9, with_xla=True, against=None, task="classification"
):
    """Rows {"model", "batch", "form", "seconds", ..., "times NAME"} of the merged model on (batch, size, size, 3).

    Of a network around a trunk the training form is timed, too, and compared with other runtimes' training form; of a
    detector also its parts between the layers (`detector.part_rows`).
    against: what else is timed, of "torch" and `runtimes.NAMES`; None: "torch" where it is installed and does the same
    work. Raises ValueError or ImportError for what is named and cannot be timed.
    """
    named, against = against or (), ("torch",) if against is None else against
    dtype, others = jnp.dtype(dtype), [other for other in named if other not in runtimes.TORCH]
    of_torch = [other for other in against if other in runtimes.TORCH]
    if others and (dtype != jnp.float32 or jax.default_backend() != "cpu"):
        raise ValueError(f"--against {','.join(others)} compares float32 on a CPU; leave it out for anything else.")
    training_form = network_of(task, name, dtype)
    around = trunk_of(training_form) is not training_form
    detects = isinstance(training_form, CascadeRCNN)
    if others and around:
        raise ValueError(f"--against {','.join(others)} takes classifiers alone; leave it or --task {task} out.")
    runtimes.check(named)
    if of_torch and named and not _torch_works(dtype):
        raise ValueError("--against torch: PyTorch computes where jax does, on a CPU in float32 alone; leave it out.")
    images = _images(batch, size)

    def draw():
        variables = training_form.init(jax.random.key(0), images)
        variables = detector.surer(variables) if detects else variables
        return variables, reparameterize(variables)

    variables, merged = compile_program(jax.jit(draw), what=f"the initialization of {name}", quick=True)()
    model = with_trunk(training_form, trunk_of(training_form).clone(deploy=True))
    trees = {"prepared": prepare(merged, size, dtype=dtype), "merged": merged}
    programs = runtimes.programs(others, model, merged["params"], images)
    programs = {form: jax_program(model.apply, tree, images) for form, tree in trees.items()} | programs
    if with_xla:
        programs["merged, xla"] = jax_program(_with_xla(model).apply, merged, images)
    programs["no depthwise"] = jax_program(_without_depthwise(model), merged, images)
    if around:
        programs[_UNMERGED] = jax_program(training_form.apply, variables, images)

    def work(torch, network, inputs, precision):
        def run():
            with torch.inference_mode(), precision():
                network(inputs)

        return run

    programs |= _torch_programs(model, images, work, of_torch)
    programs |= _torch_programs(training_form, images, work, of_torch, f", {_UNMERGED}") if around else {}
    rows = _rows(name, batch, programs, rounds, against)
    return rows + (detector.part_rows(name, model, size, rounds, "torch" in against) if detects else [])


def measure_training(name, batch, size=224, dtype="float32", rounds=5, with_xla=False, task="classification"):
    """Rows as `measure_inference` of a step: forward, backward, AdamW; "no depthwise" is the floor of the rest."""
    dtype = jnp.dtype(dtype)
    model, images = network_of(task, name, dtype), _images(batch, size)
    around = trunk_of(model) is not model
    if around and batch == 1 and _torch_works(dtype):
        raise ValueError(f"--batch 1 of {task}: PyTorch trains no batch norm of one value; give --batch 2 or more.")
    shape = (batch, size, size) if around else (batch,)
    labels = jnp.arange(math.prod(shape)).reshape(shape) % model.num_classes
    initialize = jax.jit(lambda: model.init(jax.random.key(0), images))
    variables = compile_program(initialize, what=f"the initialization of {name}", quick=True)()
    optimizer = optax.adamw(1e-3)
    state = variables, optimizer.init(variables["params"])
    forms = {"training": model} | ({"training, xla": _with_xla(model)} if with_xla else {})
    applies = {form: module.apply for form, module in forms.items()} | {"no depthwise": _without_depthwise(model)}
    loss = pixel_loss if around else class_loss
    programs = {
        form: jax_program(training_step(apply, optimizer, loss), state, images, labels)
        for form, apply in applies.items()
    }

    def work(torch, network, inputs, precision):
        targets = torch.from_numpy(np.array(labels)).to(inputs.device, torch.long)
        torch_optimizer = torch.optim.AdamW(network.train().parameters())

        def run():
            torch_optimizer.zero_grad()
            with precision():
                loss = network.loss(inputs, targets)
            loss.backward()
            torch_optimizer.step()

        return run

    return _rows(name, batch, programs | _torch_programs(model, images, work), rounds)


def class_loss(apply, variables, images, labels):
    """(cross-entropy of labels (n,), new batch statistics)."""
    logits, updates = apply(variables, images, train=True, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates


def pixel_loss(apply, variables, images, label_map):
    """(cross-entropies of both heads, of every pixel of label_map (n, h, w), new batch statistics)."""
    options = {"method": "with_auxiliary", "rngs": {"dropout": jax.random.key(0)}}
    outputs, updates = apply(variables, images, train=True, mutable=["batch_stats"], **options)
    decode, auxiliary = (pixel_losses(logits, label_map)[0] for logits in outputs)
    return (decode + AUXILIARY_WEIGHT * auxiliary) / label_map.size, updates


def training_step(apply, optimizer, loss=class_loss):
    """(state, images, labels) -> the next state, (variables, moments): forward, backward and the optimizer's update.

    loss(apply, variables, images, labels) -> (loss, new batch statistics).
    """

    def step(state, images, labels):
        variables, moments = state

        def of_params(params):
            return loss(apply, variables | {"params": params}, images, labels)

        gradients, updates = jax.grad(of_params, has_aux=True)(variables["params"])
        changes, moments = optimizer.update(gradients, moments, variables["params"])
        return {"params": optax.apply_updates(variables["params"], changes), **updates}, moments

    return step


def _with_xla(model):
    """The network with XLA's own depthwise convolution."""
    return with_trunk(model, trunk_of(model).clone(impl="xla"))


def _without_depthwise(model):
    """`model.apply` with every depthwise convolution left out: what is left is the floor for the rest."""

    def skip(next_function, args, kwargs, context):
        if isinstance(context.module, DepthwiseConv | DilatedReparamBlock) and context.method_name == "__call__":
            return args[0]
        return next_function(*args, **kwargs)

    def apply(variables, images, **options):
        with nn.intercept_methods(skip):
            return model.apply(variables, images, **options)

    return apply


def _images(batch, size):
    return jnp.asarray(np.random.default_rng(0).standard_normal((batch, size, size, 3)), jnp.float32)


def _torch_works(dtype):
    """Whether PyTorch is installed and does the same work; on a CPU in float32 only."""
    device = torch_and_device()[1]
    return device is not None and (device, jnp.dtype(dtype)) != ("cpu", jnp.bfloat16)


def _torch_programs(model, images, work, names=("torch",), ending=""):
    """The equal PyTorch network, where PyTorch does the same work: of "torch" both memory layouts, of "inductor" what
    `torch.compile` makes of the one that it is quicker with. ending: of what they are called.
    """
    dtype = jnp.dtype(trunk_of(model).dtype)
    if not names or not _torch_works(dtype):
        return {}
    torch, device = torch_and_device()
    from unireplknet_jax.benchmark.torch_network import in_precision

    images = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(device)

    def program(layout, compile=lambda network: network):
        network = compile(_torch_network(model).eval().to(device, memory_format=layout))
        inputs = images.contiguous(memory_format=layout)
        return torch_program(work(torch, network, inputs, lambda: in_precision(device, dtype.name)), torch, device)

    programs = {}
    if "torch" in names:
        programs["torch"] = program(torch.contiguous_format)
        programs["torch, channels last"] = program(torch.channels_last)
    if "inductor" in names:
        programs["inductor"] = program(torch.channels_last, torch.compile)
    return {f"{name}{ending}": made for name, made in programs.items()}


def _torch_network(model):
    """The network in PyTorch that does the work of a module."""
    from unireplknet_jax.benchmark import torch_cascade, torch_network, torch_upernet

    if isinstance(model, CascadeRCNN):
        return torch_cascade.CascadeRCNN(model, detector.SURE)
    trunk = trunk_of(model)
    fields = trunk.depths, trunk.dims, trunk.kernel_sizes, model.num_classes, model.in_chans, trunk.deploy
    if trunk is model:
        return torch_network.Network(*fields)
    return torch_upernet.UPerNet(*fields, model.channels, model.auxiliary_channels, model.dropout)


def _rows(name, batch, programs, rounds, against=("torch",)):
    """The rows of what is timed, each compared with the fastest of another runtime that is merged, or not, as it is."""
    timings = measure(programs, rounds)

    def times(form, other):
        alike = [name for name in timings if name.startswith(other) and _unmerged(name) == _unmerged(form)]
        return timings[form].median / min(timings[name].median for name in alike) if alike else None

    return [
        {"model": name, "batch": batch, "form": form, **timing._asdict()}
        | {f"times {other}": times(form, other) for other in against}
        for form, timing in timings.items()
    ]


def _unmerged(form):
    return form.endswith(_UNMERGED)
