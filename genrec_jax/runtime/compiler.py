"""Options for XLA's compiler that depend on the processor."""

import functools

import jax

# XLA's kernels for products of few rows (YNNPACK) take twice the time of its
# others on x86-64 without AVX-512, and less than them with it.
_WITHOUT_AVX512 = {"xla_cpu_experimental_ynn_fusion_type": ""}


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
