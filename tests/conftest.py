"""Eight fake devices, strict broadcasting, and a compilation cache."""

import os
import pathlib

_ROOT = pathlib.Path(__file__).parent.parent
# Before JAX starts, and inherited by the processes that tests start: one device
# must equal eight, and compiling is most of what tests do.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict():
  with jax.numpy_rank_promotion("raise"):
    yield
