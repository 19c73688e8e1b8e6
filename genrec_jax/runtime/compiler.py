"""XLA: options that depend on the processor, and what it has compiled."""

from collections.abc import Mapping
import functools
import hashlib
import os
from pathlib import Path

import jax

# XLA's kernels for products of few rows (YNNPACK) take twice the time of its
# others on x86-64 without AVX-512, and less than them with it.
_WITHOUT_AVX512 = {"xla_cpu_experimental_ynn_fusion_type": ""}
# Bytes of compiled programs that are kept; those not used for longest go first.
_KEPT = 2**31


def keep_compiled(environ: Mapping[str, str] = os.environ) -> str:
  """Keeps compiled programs in the user's cache, for the next start.

  Must come before anything is compiled. `JAX_COMPILATION_CACHE_DIR` names
  another folder, or, empty, none.

  Args:
    environ: variables of the process.

  Returns:
    The folder; '' where the variable decides.
  """
  if "JAX_COMPILATION_CACHE_DIR" in environ:
    return ""
  cache = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
  # By processor: a home may be shared, and code for one can fail on another.
  features = " ".join(sorted(_processor_flags()))
  name = hashlib.sha256(features.encode()).hexdigest()[:12]
  folder = str(Path(cache) / "genrec_jax" / "compiled" / name)
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_compilation_cache_max_size", _KEPT)
  return folder


def options(platform: str) -> dict[str, str]:
  """Returns `compiler_options` for `jax.jit`.

  Args:
    platform: of the devices that are compiled for: 'cpu', 'gpu', 'tpu'.
  """
  flags = _processor_flags()
  if platform != "cpu" or "avx2" not in flags or "avx512f" in flags:
    return {}
  return _WITHOUT_AVX512 if _known() else {}


def _processor_flags() -> set[str]:
  """Returns the processor's features as Linux names them; none elsewhere."""
  try:
    with open("/proc/cpuinfo") as file:
      lines = [line for line in file if line.startswith("flags")]
  except OSError:
    return set()
  return set(lines[0].split()) if lines else set()


@functools.cache
def _known() -> bool:
  """Returns whether this jaxlib takes the options; unknown ones are errors."""
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    try:
      jax.jit(lambda: 0, compiler_options=_WITHOUT_AVX512)()
    except jax.errors.JaxRuntimeError:
      return False
  return True
