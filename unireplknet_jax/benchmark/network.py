"""Whole networks: merged inference and a training step, beside equal networks of other runtimes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unireplknet_jax.benchmark import runtimes
from unireplknet_jax.benchmark.timing import jax_program, measure, torch_and_device, torch_program
from unireplknet_jax.models.prepare import prepare
from unireplknet_jax.models.program import announced
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.nn.block import DepthwiseConv, DilatedReparamBlock


def measure_inference(name, batch, size=224, dtype="float32", rounds=9, with_xla=True, against=None):
    """Rows {"model", "batch", "form", "seconds", ..., "times NAME"} of the merged model on (batch, size, size, 3).

    against: what else is timed, of "torch" and `runtimes.NAMES`; None: "torch" where it is installed and does the same
    work. Raises ValueError or ImportError for what is named and cannot be timed.
    """
    named, against = against or (), ("torch",) if against is None else against
    dtype, others = jnp.dtype(dtype), [other for other in named if other != "torch"]
    if others and (dtype != jnp.float32 or jax.default_backend() != "cpu"):
        raise ValueError(f"--against {','.join(others)} compares float32 on a CPU; leave it out for anything else.")
    runtimes.check(named)
    if "torch" in named and not _torch_works(dtype):
        raise ValueError("--against torch: PyTorch computes where jax does, on a CPU in float32 alone; leave it out.")
    model = create_model(name, dtype=dtype)
    images = _images(batch, size)
    with announced(f"initializing {name}"):
        merged = jax.jit(lambda: reparameterize(model.init(jax.random.key(0), images)))()
    model = model.clone(deploy=True)
    trees = {"prepared": prepare(merged, size, dtype=dtype), "merged": merged}
    programs = runtimes.programs(others, model, merged["params"], images)
    programs = {form: jax_program(model.apply, tree, images) for form, tree in trees.items()} | programs
    if with_xla:
        programs["merged, xla"] = jax_program(model.clone(impl="xla").apply, merged, images)
    programs["no depthwise"] = jax_program(_without_depthwise(model), merged, images)

    def work(torch, network, inputs, precision):
        def run():
            with torch.inference_mode(), precision():
                network(inputs)

        return run

    programs |= _torch_programs(model, images, work) if "torch" in against else {}
    return _rows(name, batch, programs, rounds, against)


def measure_training(name, batch, size=224, dtype="float32", rounds=5, with_xla=False):
    """Rows as `measure_inference` of a step: forward, backward, AdamW; "no depthwise" is the floor of the rest."""
    dtype = jnp.dtype(dtype)
    model = create_model(name, dtype=dtype)
    images, labels = _images(batch, size), jnp.arange(batch) % 1000
    with announced(f"initializing {name}"):
        variables = jax.jit(lambda: model.init(jax.random.key(0), images))()
    optimizer = optax.adamw(1e-3)
    state = variables, optimizer.init(variables["params"])
    forms = {"training": model} | ({"training, xla": model.clone(impl="xla")} if with_xla else {})
    applies = {form: module.apply for form, module in forms.items()} | {"no depthwise": _without_depthwise(model)}
    programs = {
        form: jax_program(training_step(apply, optimizer), state, images, labels) for form, apply in applies.items()
    }

    def work(torch, network, inputs, precision):
        targets = torch.arange(batch, device=inputs.device) % 1000
        torch_optimizer = torch.optim.AdamW(network.train().parameters())

        def run():
            torch_optimizer.zero_grad()
            with precision():
                loss = torch.nn.functional.cross_entropy(network(inputs), targets)
            loss.backward()
            torch_optimizer.step()

        return run

    return _rows(name, batch, programs | _torch_programs(model, images, work), rounds)


def training_step(apply, optimizer):
    """(state, images, labels) -> the next state, (variables, moments): forward, backward and the optimizer's update."""

    def step(state, images, labels):
        variables, moments = state

        def loss(params):
            tree = variables | {"params": params}
            logits, updates = apply(tree, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

        gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
        changes, moments = optimizer.update(gradients, moments, variables["params"])
        return {"params": optax.apply_updates(variables["params"], changes), **updates}, moments

    return step


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


def _torch_programs(model, images, work):
    """Both memory layouts of the equal PyTorch network, where PyTorch does the same work."""
    if not _torch_works(model.dtype):
        return {}
    (torch, device), dtype = torch_and_device(), jnp.dtype(model.dtype).name
    from unireplknet_jax.benchmark.torch_network import Network, in_precision

    images = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(device)
    fields = model.depths, model.dims, model.kernel_sizes, model.num_classes, model.in_chans, model.deploy

    def program(layout):
        network = Network(*fields).eval().to(device, memory_format=layout)
        inputs = images.contiguous(memory_format=layout)
        return torch_program(work(torch, network, inputs, lambda: in_precision(device, dtype)), torch, device)

    return {"torch": program(torch.contiguous_format), "torch, channels last": program(torch.channels_last)}


def _rows(name, batch, programs, rounds, against=("torch",)):
    timings = measure(programs, rounds)
    fastest = {
        other: min((timing.median for form, timing in timings.items() if form.startswith(other)), default=None)
        for other in against
    }
    return [
        {"model": name, "batch": batch, "form": form, **timing._asdict()}
        | {f"times {other}": timing.median / seconds if seconds else None for other, seconds in fastest.items()}
        for form, timing in timings.items()
    ]
