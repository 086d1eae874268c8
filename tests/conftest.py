import collections
import gc
import os
import signal
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags
from hub_stand_in import hub  # noqa: F401 (a fixture)

# A shell that starts the tests in the background has them ignore Ctrl-C, which the programs they start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Traces are millions of objects that stay: looking for cycles among them less often is a twentieth of all the time.
gc.set_threshold(100_000, 50, 50)
# Takes effect only before the first use of a device.
jax.config.update("jax_num_cpu_devices", 8)
# Grain reads its absl flags when it starts worker processes, which fails unless somebody parsed them.
flags.FLAGS.mark_as_parsed()


# Without optimizations (`quick_compilation`) the first halves the time that XLA needs for a program again; the second
# lets it work on one thread, which is less work in all: the other cores have tests of their own.
QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config):
    """The quick selection compiles in the quickest way; all tests together, and single ones, as users do."""
    if config.option.markexpr == "not slow" and jax.__version_info__ < (0, 11):  # later compilers do not know the flags
        os.environ["XLA_FLAGS"] = f"{QUICK_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()


@pytest.hookimpl(trylast=True)  # when the others are deselected
def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first: one that takes minutes, begun at the end, has one worker wait for it.

    launch/test.sh keeps xdist from sorting files by the number of their tests.
    """
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (slow[item.path], tests[item.path]), reverse=True)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """What a test compiled is read back when another test compiles it again: jax's cache, emptied with every session.

    Each worker has a folder of its own: the files are not written atomically.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module", autouse=True)
def what_is_old_stays():
    """Python does not look again through what earlier modules left, for which it takes a second towards the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile without most of XLA's optimizations: most of the time of many tests, which are not about XLA."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of reference numbers computed by the original code."""
    return Path(__file__).parent / "goldens"
