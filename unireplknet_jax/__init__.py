"""UniRepLKNet in JAX/Flax: the public API. Names are imported on first use, so that `import unireplknet_jax` is quick
and its lower floors (`ops`, `nn`, `models`) need jax, flax and numpy alone."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which see no names in `_HOME`
    from unireplknet_jax.data.files import EncodedFile as EncodedFile
    from unireplknet_jax.models.prepare import prepare as prepare
    from unireplknet_jax.models.reparameterize import reparameterize as reparameterize
    from unireplknet_jax.models.variants import create_model as create_model
    from unireplknet_jax.models.variants import list_models as list_models
    from unireplknet_jax.tasks.checkpoint import load_checkpoint as load_checkpoint
    from unireplknet_jax.tasks.checkpoint import load_pretrained as load_pretrained
    from unireplknet_jax.tasks.checkpoint import open_checkpoint as open_checkpoint
    from unireplknet_jax.tasks.checkpoint import save_torch_checkpoint as save_torch_checkpoint
    from unireplknet_jax.tasks.embed import embed as embed
    from unireplknet_jax.tasks.export import export as export
    from unireplknet_jax.tasks.predict import predict as predict

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
    "export": "tasks.export",
    "EncodedFile": "data.files",
    "save_torch_checkpoint": "tasks.checkpoint",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
