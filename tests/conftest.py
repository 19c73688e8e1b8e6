"""Eight fake devices, strict broadcasting, and a compilation cache."""

import importlib.metadata
import os
import pathlib

_ROOT = pathlib.Path(__file__).parent.parent
# Before JAX starts, and inherited by the processes that tests start: one device
# must equal eight, and compiling is most of what tests do.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Compiling takes a quarter of the time without fusion's own emitters and LLVM's
# passes. Without the latter sums are rounded worse: tests whose tolerances need
# them are marked "optimised". Later XLAs end at flags that they do not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
  os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".cache/jax"))
# All of them: tests compile thousands of functions that take a tenth of a
# second each, and kept ones save a third of the processor's time.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch; two test processes

import jax
import pytest

from tests.fast import FAST

# Minutes each. A process takes whole files, so the longest go first: none of
# them may be left when the others are done.
_LONGEST = (
  "tests/run_test.py",
  "tests/train/",
  "tests/sampling/",
  "tests/distributed_test.py",
  "tests/data/prepared_run_test.py",
  "tests/models/janus_test.py",
  "tests/main_test.py",
)


def pytest_collection_modifyitems(items):
  def path(item):
    return item.path.relative_to(_ROOT).as_posix()

  def rank(item):
    starts = (i for i, x in enumerate(_LONGEST) if path(item).startswith(x))
    return next(starts, len(_LONGEST))

  items.sort(key=rank)
  for item in items:
    if path(item).startswith(FAST) and not item.get_closest_marker("slow"):
      item.add_marker("fast")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  optimised = item.get_closest_marker("optimised") is not None
  jax.config.update("jax_disable_most_optimizations", not optimised)


@pytest.fixture(autouse=True)
def _strict():
  with jax.numpy_rank_promotion("raise"):
    yield
