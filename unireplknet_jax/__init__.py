"""UniRepLKNet in JAX/Flax: the public API. Names are imported on first use, so that `import unireplknet_jax` is quick
and its lower floors (`ops`, `nn`, `models`) need jax, flax and numpy alone."""

import importlib

__version__ = "0.1.0"

_HOME = {
    "list_models": "models.variants",
    "create_model": "models.variants",
    "reparameterize": "models.reparameterize",
    "prepare": "models.prepare",
    "load_checkpoint": "tasks.checkpoint",
    "load_pretrained": "tasks.checkpoint",
    "open_checkpoint": "tasks.checkpoint",
    "predict": "tasks.predict",
    "embed": "tasks.embed",
    "EncodedFile": "data.files",
    "save_torch_checkpoint": "tasks.checkpoint",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return sorted(set(globals()) | set(_HOME))
