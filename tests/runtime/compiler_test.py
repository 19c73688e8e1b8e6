import jax
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


def test_compiled_programs_are_kept_by_processor(processor, monkeypatch):
  set_to = {}
  monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
  assert compiler.keep_compiled({"JAX_COMPILATION_CACHE_DIR": ""}) == ""
  assert not set_to
  processor(OLD)
  old = compiler.keep_compiled({"XDG_CACHE_HOME": "/cache"})
  assert set_to["jax_compilation_cache_dir"] == old
  assert old.startswith("/cache/genrec_jax/compiled/")
  processor(OLD | {"avx512f"})
  assert compiler.keep_compiled({"XDG_CACHE_HOME": "/cache"}) != old
