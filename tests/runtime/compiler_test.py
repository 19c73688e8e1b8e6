"""Options by processor, and a cache that no state of a disk can break."""

from pathlib import Path

import filelock
import jax
from jax._src import lru_cache  # whose names of files are relied upon
import jax.numpy as jnp
import pytest

from genrec_jax.runtime import compiler

OLD = {"fpu", "sse2", "avx2"}


@pytest.fixture
def processor(monkeypatch):
  def have(flags):
    monkeypatch.setattr(compiler, "_processor_flags", lambda: flags)

  yield have
  compiler._known.cache_clear()


def test_kernels_are_switched_where_they_are_slow_only(processor):
  processor(OLD)
  assert compiler.options("cpu")
  for platform in ("gpu", "tpu"):
    assert compiler.options(platform) == {}
  processor(OLD | {"avx512f"})
  assert compiler.options("cpu") == {}
  processor(set())  # another family of processors, or another system
  assert compiler.options("cpu") == {}


def test_the_options_compile_and_change_nothing_but_rounding(processor):
  processor(OLD)
  x = jax.random.normal(jax.random.key(0), (8, 16, 64))
  plain = jax.jit(jnp.matmul)(x, x.mT)
  other = jax.jit(jnp.matmul, compiler_options=compiler.options("cpu"))(x, x.mT)
  # 64 products, each rounded, of values of order 1.
  assert jnp.abs(plain - other).max() < 64 * 2**-23 * jnp.abs(plain).max()


def test_an_option_that_this_jaxlib_lacks_is_left_out(processor, monkeypatch):
  processor(OLD)
  monkeypatch.setattr(compiler, "_WITHOUT_AVX512", {"xla_no_such_option": ""})
  compiler._known.cache_clear()
  assert compiler.options("cpu") == {}


@pytest.fixture
def set_to(monkeypatch):
  """Returns what JAX's config is set to."""
  found = {}
  monkeypatch.setattr(jax.config, "update", found.__setitem__)
  return found


def test_compiled_programs_are_kept_by_processor(processor, set_to, tmp_path):
  assert compiler.keep_compiled({"JAX_COMPILATION_CACHE_DIR": ""}) == ""
  assert not set_to
  environ = {"XDG_CACHE_HOME": str(tmp_path)}
  processor(OLD)
  old = compiler.keep_compiled(environ)
  assert set_to["jax_compilation_cache_dir"] == old
  assert old.startswith(f"{tmp_path}/genrec_jax/compiled/")
  processor(OLD | {"avx512f"})
  assert compiler.keep_compiled(environ) != old


def test_what_was_not_written_to_its_end_is_removed(set_to, tmp_path):
  environ = {"XDG_CACHE_HOME": str(tmp_path)}
  folder = compiler.keep_compiled(environ)
  cache = lru_cache.LRUCache(folder, max_size=1000)
  cache.put("whole", b"program")
  # As of a process that was killed, or of a full disk.
  Path(folder, "part-cache").write_bytes(b"pro")
  with pytest.raises(FileNotFoundError):
    cache.put("other", b"program")
  assert compiler.keep_compiled(environ) == folder
  assert cache.get("part") is None
  assert cache.get("whole") == b"program"
  cache.put("other", b"program")
  assert cache.get("other") == b"program"


def test_without_a_folder_a_line_says_so(set_to, tmp_path, monkeypatch, capsys):
  file = tmp_path / "file"
  file.write_text("")
  assert compiler.keep_compiled({"XDG_CACHE_HOME": str(file)}) == ""

  def homeless():
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.setattr(compiler.Path, "home", homeless)
  assert compiler.keep_compiled({}) == ""
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2
  assert str(file) in lines[0]
  assert "home directory" in lines[1]
  for line in lines:
    assert "JAX_COMPILATION_CACHE_DIR names another folder" in line
  assert not set_to


def test_a_folder_that_another_process_holds_is_not_waited_for_forever(
  set_to, tmp_path, monkeypatch, capsys
):
  environ = {"XDG_CACHE_HOME": str(tmp_path)}
  folder = compiler.keep_compiled(environ)
  monkeypatch.setattr(compiler, "_PATIENCE", 0.01)
  with filelock.FileLock(Path(folder, ".lockfile")):
    assert compiler.keep_compiled(environ) == ""
  assert ".lockfile" in capsys.readouterr().out
