"""Workdirs of runs that trained adapters: opened, exported, trained further."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError
from genrec_jax.hf import load, sharded_read
from genrec_jax.hf.export import export_checkpoint
from genrec_jax.models import janus
from genrec_jax.nn import lora
from tests import rounding
from tests.hf import tiny_janus


def drawn(opened, trainable, rank, seed):
  """Returns adapters as after training: B is not zero any more."""
  kernels = lora.kernels(opened.shapes, trainable, opened.model.adaptable)
  shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), kernels, rank))
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes
  )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Returns a base in bfloat16, and runs over one another: all, then some."""
  folder = tmp_path_factory.mktemp("lora")
  base = tiny_janus.save(
    folder / "base", tiny_janus.torch_model().bfloat16(), max_shard_size="99KB"
  )
  opened = load.open_generator(base, dtype="float32")
  first = drawn(opened, ["^language/"], 3, seed=0)
  sft = tiny_janus.make_workdir(folder / "sft", base, first)
  second = drawn(opened, ["self_attn"], 2, seed=1)
  rl = tiny_janus.make_workdir(folder / "rl", sft, second)
  return base, sft, rl, first, second


def language(path):
  """Reads the language model only."""
  opened = load.open_generator(path, dtype="float32")
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = {"language": opened.shapes["language"]}
  return opened.read(jax.tree.map(lambda _: here, shapes))


def logits(model):

  @jax.jit
  def compute(params):
    width = model.language.width
    embeds = jax.random.normal(jax.random.key(2), (2, 7, width))
    mask = jnp.ones((2, 7), bool)
    return model.text_vocabulary.logits(
      params, model.hidden_states(params, embeds, mask)
    )

  return compute


def test_merged_equals_unmerged(runs, tmp_path):
  """Through a workdir, and through an export and transformers' format."""
  base, sft, rl, first, second = runs
  compute = logits(load.open_generator(base, dtype="float32").model)
  before, merged = language(base), language(sft)
  assert jax.tree.structure(merged) == jax.tree.structure(before)
  once = compute(tree.merge(before, first))
  # A kernel is the base's and a sum over the rank, then used in the layers.
  terms = tiny_janus.LANGUAGE_TERMS + 40
  rounding.assert_close(compute(merged), once, terms=terms)
  assert np.abs(once - compute(before)).max() > 0.1
  # A run over another one's.
  twice = compute(tree.merge(merged, second))
  out = tmp_path / "exported"
  export_checkpoint(out, load.open_generator(rl, dtype="float32"), "float32")
  exported = language(out)
  rounding.assert_close(compute(exported), twice, terms=terms)
  kernel = "language/layers/self_attn/q_proj/kernel"
  assert {
    path
    for path, value in tree.flatten(exported).items()
    if (value != tree.flatten(merged)[path]).any()
  } == {kernel.replace("q_proj", f"{name}_proj") for name in "qkvo"}


def test_an_export_has_the_type_of_the_base(runs, tmp_path):
  opened = load.open_generator(runs[1], dtype="float32")
  export_checkpoint(tmp_path / "out", opened)
  files = (tmp_path / "out").glob("*.safetensors")
  tensors = {k: v for file in files for k, v in load_file(file).items()}
  for path, merged in opened.trained.items():
    names = opened.stored[path].names
    for i, name in enumerate(names):
      expected = merged[i].T.astype("bfloat16")
      np.testing.assert_array_equal(tensors[name], expected, err_msg=name)


@pytest.mark.parametrize("piece", [sharded_read.PIECE_BYTES, 500])
def test_slices_are_merged_straight_onto_a_mesh(runs, monkeypatch, piece):
  monkeypatch.setattr(sharded_read, "PIECE_BYTES", piece)
  opened = load.open_generator(runs[2], dtype="float32")
  shapes = tree.select(opened.shapes, ["self_attn/[qo]_proj"])[0]
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  whole = opened.read(jax.tree.map(lambda _: here, shapes), "bfloat16")
  mesh = mesh_lib.make_mesh(4, 2)
  specs = tree.select(
    sharding.specs(janus.RULES, opened.shapes), ["self_attn/[qo]_proj"]
  )[0]
  spread = opened.read(
    sharding.checked_shardings(mesh, specs, shapes), "bfloat16"
  )
  for path, value in tree.flatten(spread).items():
    assert value.dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, tree.flatten(whole)[path])


def test_adapters_that_do_not_fit_are_named(runs, tmp_path):
  base, *_ = runs
  adapters = tree.flatten(runs[3])
  path = "language/layers/self_attn/q_proj/lora_a"
  wrong = adapters | {path: adapters[path][:, :-1]}
  del wrong["language/layers/mlp/up_proj/lora_b"]
  workdir = tiny_janus.make_workdir(
    tmp_path / "run", base, tree.unflatten(wrong)
  )
  with pytest.raises(UserError) as caught:
    load.open_generator(workdir, dtype="float32")
  message = str(caught.value)
  assert "self_attn/q_proj/kernel: base [3, 40, 56], trained [3, 39, 56]" in (
    message
  )
  assert "mlp/up_proj/lora_a: not in the base model" in message
