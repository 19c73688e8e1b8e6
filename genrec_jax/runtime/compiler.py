"""XLA: options that depend on the processor, and what it has compiled."""

from collections.abc import Mapping
import functools
import hashlib
import os
from pathlib import Path

import filelock
import jax

from genrec_jax.runtime import distributed

# XLA's kernels for products of few rows (YNNPACK) take twice the time of its
# others on x86-64 without AVX-512, and less than them with it.
_WITHOUT_AVX512 = {"xla_cpu_experimental_ynn_fusion_type": ""}
_FOLDER = "JAX_COMPILATION_CACHE_DIR"  # JAX's own variable
# Bytes of compiled programs that are kept; those not used for longest go first.
_KEPT = 2**31
# Of a program, and of when it was last used, as JAX names its files.
_PROGRAM, _USED = "-cache", "-atime"
_PATIENCE = 10  # seconds for other processes to write theirs; as JAX waits


def keep_compiled(environ: Mapping[str, str] = os.environ) -> str:
  """Keeps compiled programs in the user's cache, for the next start.

  Must come before anything is compiled. `JAX_COMPILATION_CACHE_DIR` names
  another folder, or, empty, none. Where nothing can be written, a line says so
  and nothing is kept.

  Args:
    environ: variables of the process.

  Returns:
    The folder; '' where there is none, or where the variable decides.
  """
  if _FOLDER in environ:
    return ""
  try:
    # Of a process in a container nobody may know the home.
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    # By processor: a home may be shared, and code for one can fail on another.
    features = " ".join(sorted(_processor_flags()))
    name = hashlib.sha256(features.encode()).hexdigest()[:12]
    folder = Path(cache, "genrec_jax", "compiled", name)
    _prepare(folder)
  except (OSError, RuntimeError) as error:
    distributed.say(
      f"what is compiled is not kept for the next start ({error});"
      f" {_FOLDER} names another folder, or, empty, none"
    )
    return ""
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_compilation_cache_max_size", _KEPT)
  return str(folder)


def _prepare(folder: Path) -> None:
  """Makes the folder, and removes what was not written to its end.

  A program whose time of use is missing was being written when its process was
  killed or the disk was full. JAX would read it again at each start, and its
  search for what to remove ends at it: no other program would be kept.

  Raises:
    OSError: it cannot be written to.
  """
  folder.mkdir(parents=True, exist_ok=True)
  # The file that JAX locks while it writes both: none is being written now.
  with filelock.FileLock(folder / ".lockfile", timeout=_PATIENCE):
    for program in folder.glob(f"*{_PROGRAM}"):
      used = program.with_name(program.name.removesuffix(_PROGRAM) + _USED)
      if not used.exists():
        program.unlink()


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
