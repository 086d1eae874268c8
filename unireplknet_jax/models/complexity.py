"""What a model costs, counted without running it: parameters and multiply-accumulates."""

import collections
import math

import jax
import numpy as np


def count_parameters(variables):
    """The number of trained values in {"params": ...} (arrays or shapes); batch statistics do not count."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def count_macs(model, image_size):
    """The multiply-accumulates of a forward pass over one square image: all convolutions and matrix products.

    Every tap counts for every output, padding or not, as in the published numbers, which call this FLOPs; taps that
    see nothing but padding are never computed and do not count.
    """
    return costs(model, image_size)[1]


def program_macs(function, *args):
    """The multiply-accumulates of any traceable function; args: arrays or their shapes."""
    return _macs(jax.make_jaxpr(function)(*args).jaxpr)


def costs(model, image_size):
    """(parameters, multiply-accumulates for one square image) of a `UniRepLKNet`, either form, read off its program."""
    parts = [(repeats, *_traced_costs(part, image_size)) for repeats, part in _parts(model)]
    return tuple(sum(part[0] * part[column] for part in parts) for column in (1, 2))


def _parts(model):
    """(factor, model) whose costs add up to the model's: without blocks, and with one block of each kind.

    Blocks of one stage with the same kernel cost the same, and tracing dozens of them takes most of a minute.
    """
    kinds = [(i, size) for i, sizes in enumerate(model.kernel_sizes) for size in sizes]
    yield 1 - len(kinds), model.clone(depths=(0,) * 4, kernel_sizes=((),) * 4)
    for (stage, size), repeats in collections.Counter(kinds).items():
        only = tuple((size,) if i == stage else () for i in range(4))
        yield repeats, model.clone(depths=tuple(map(len, only)), kernel_sizes=only)


def _traced_costs(model, image_size):
    model = model.clone(impl="xla", remat=False)  # the one implementation whose program holds every tap once
    image = jax.ShapeDtypeStruct((1, image_size, image_size, model.in_chans), np.float32)
    program, variables = jax.make_jaxpr(model.init, return_shape=True)(jax.random.key(0), image)
    return count_parameters(variables), _macs(program.jaxpr)


def _macs(jaxpr):
    return sum(_macs_of_equation(equation) for equation in jaxpr.eqns)


def _macs_of_equation(equation):
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        per_output = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        return per_output * math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lengths = equation.invars[0].aval.shape
        return math.prod(lengths[axis] for axis in contracted) * math.prod(equation.outvars[0].aval.shape)
    inner = [_macs(jaxpr) for jaxpr in _sub_jaxprs(params)]
    if name == "while" and any(inner):
        raise ValueError("a loop without a fixed number of rounds cannot be counted; write it as a scan.")
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _sub_jaxprs(params):
    """The programs inside an equation (of jit, remat, custom_vjp_call, closed_call, scan, cond, ...)."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
