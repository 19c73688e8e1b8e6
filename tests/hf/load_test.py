"""Loading generators and CLIP, and what is said when it cannot be done."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers

from genrec_jax import testing
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError
from genrec_jax.hf import load, safetensors_io, sharded_read, workdir_model
from tests.hf import tiny_emu3, tiny_janus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_janus.save(tmp_path_factory.mktemp("janus"))


def test_a_folder_in_hf_format(folder):
  loaded = load.load_generator(folder, dtype="bfloat16", remat="dots")
  _, model, params = tiny_janus.pair()
  assert loaded.model == model.with_compute(dtype="bfloat16", remat="dots")
  assert loaded.processor.boi_id == tiny_janus.BOI
  assert loaded.source == str(folder)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_parameters_are_float32_whatever_computes(folder):
  loaded = load.load_generator(folder, dtype="bfloat16")
  assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {
    "float32"
  }


def test_the_type_of_parameters_is_the_caller_s_choice(folder):
  loaded = load.load_generator(folder, dtype="float32", param_dtype="bfloat16")
  jax.tree.map(
    lambda found, expected: np.testing.assert_array_equal(
      found, expected.astype("bfloat16")
    ),
    loaded.params,
    tiny_janus.pair()[2],
  )


def devices_along(mesh, names):
  """Returns the number of parts that an axis of a parameter is split into."""
  axes = names if isinstance(names, tuple) else (names,)
  return math.prod(mesh.shape[name] for name in axes if name)


# Of Emu3 its language model alone is split.
@pytest.mark.parametrize(
  ("family", "split"), [(tiny_janus, 20), (tiny_emu3, 8)]
)
@pytest.mark.parametrize("piece", [1, 300, sharded_read.PIECE_BYTES])
def test_parameters_go_straight_onto_a_mesh(
  tmp_path, monkeypatch, family, split, piece
):
  folder = family.save(tmp_path / "model")
  # A piece of a byte is a row; one of 300 ends within a layer of some.
  monkeypatch.setattr(sharded_read, "PIECE_BYTES", piece)
  opened = load.open_generator(folder, dtype="float32")
  mesh = mesh_lib.make_mesh(data=4, model=2)
  specs = sharding.specs(opened.rules, opened.shapes)
  # Sizes that fit nothing: keep of each spec what divides.
  flat = tree.flatten(specs)
  for path, leaf in tree.flatten(opened.shapes).items():
    axes = zip(leaf.shape, flat[path], strict=False)
    flat[path] = jax.P(
      *(
        name if n % devices_along(mesh, name) == 0 else None for n, name in axes
      )
    )
  assert sum(any(spec) for spec in flat.values()) > split
  names = {name for spec in flat.values() for name in spec}
  assert names >= {"data", "model", None}
  if piece == 1:  # many small arrays: some will do
    flat = {path: flat[path] for path in list(flat)[::9]}
  layout = sharding.shardings(mesh, tree.unflatten(flat))
  params = tree.flatten(opened.read(layout))
  assert params.keys() == flat.keys()
  expected = tree.flatten(family.pair()[2])
  for path, array in params.items():
    assert array.sharding == tree.flatten(layout)[path]
    np.testing.assert_array_equal(array, expected[path], err_msg=path)


def test_opening_reads_no_weights(tmp_path, monkeypatch):
  folder = tiny_janus.save(tmp_path)
  monkeypatch.setattr(safetensors_io.SafetensorsView, "__getitem__", None)
  assert load.open_generator(folder, dtype="float32").source == str(folder)


def test_a_tied_head_is_known_by_its_absence(tmp_path):
  folder = tiny_janus.save(tmp_path, tiny_janus.torch_model(tied=True))
  assert load.load_generator(folder, dtype="float32").model.language.tied


def test_a_head_of_its_own_is_loaded_whatever_the_default(folder, tmp_path):
  tiny_janus.save(tmp_path)
  tiny_janus.edit(tmp_path / "config.json", tie_word_embeddings=None)
  loaded = load.load_generator(tmp_path, dtype="float32")
  assert not loaded.model.language.tied


def test_a_workdir_is_its_base_overlaid_with_what_was_trained(folder, tmp_path):
  base = load.load_generator(folder, dtype="float32").params
  trained, _ = tree.select(base, ["self_attn/q_proj"])
  trained = jax.tree.map(lambda x: x + 1, trained)
  workdir = tiny_janus.make_workdir(tmp_path / "run", folder, trained)
  loaded = load.load_generator(workdir, dtype="float32")
  assert loaded.source == str(folder)
  expected = tree.flatten(base) | tree.flatten(trained)
  for name, value in tree.flatten(loaded.params).items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)
  # On any mesh; only what is asked for is read.
  mesh = mesh_lib.make_mesh(data=2, model=4)
  layout = jax.tree.map(
    lambda leaf: jax.NamedSharding(
      mesh, jax.P("data") if leaf.shape[0] % 2 == 0 else jax.P()
    ),
    {"vision": loaded.shapes["vision"]},
  )
  spread = tree.flatten(loaded.read(layout))
  assert all(name.startswith("vision/") for name in spread)
  for name, value in spread.items():
    assert value.sharding == tree.flatten(layout)[name]
    np.testing.assert_array_equal(value, expected[name], err_msg=name)
  # A run may start from another run.
  second = tiny_janus.make_workdir(
    tmp_path / "second",
    workdir,
    tree.select(base, ["k_proj"])[0],
  )
  again = tree.flatten(load.load_generator(second, dtype="float32").params)
  for name, value in expected.items():
    np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_a_workdir_whose_base_has_changed_is_refused(tmp_path):
  base = tiny_janus.save(tmp_path / "base")
  params = load.load_generator(base, dtype="float32").params
  first = tiny_janus.make_workdir(
    tmp_path / "1", base, tree.select(params, ["q_proj"])[0]
  )
  second = tiny_janus.make_workdir(
    tmp_path / "2", first, tree.select(params, ["k_proj"])[0]
  )
  load.open_generator(second, dtype="float32")
  before = workdir_model.fingerprint(second)
  model = tiny_janus.torch_model()
  with torch.no_grad():
    model.lm_head.weight.add_(1)
  tiny_janus.save(base, model)
  assert workdir_model.fingerprint(second) != before
  for workdir in (first, second):
    with pytest.raises(UserError, match="had other weights"):
      load.open_generator(workdir, dtype="float32")


def test_a_workdir_of_another_base_is_refused(folder, tmp_path):
  trained = {"language": {"norm": {"scale": np.ones(3)}, "more": np.ones(2)}}
  workdir = tiny_janus.make_workdir(tmp_path / "run", folder, trained)
  with pytest.raises(UserError) as error:
    load.load_generator(workdir, dtype="float32")
  assert "language/norm/scale: base [40], trained [3]" in str(error.value)
  assert "language/more: not in the base model" in str(error.value)


def test_checkpoints_without_their_run_are_refused(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(UserError, match=r"no config\.json with the model\.check"):
    load.load_generator(tmp_path, dtype="float32")


def test_a_workdir_without_a_checkpoint_is_refused(folder, tmp_path):
  workdir = tiny_janus.make_workdir(tmp_path / "run", folder, {"x": np.ones(2)})
  shutil.rmtree(workdir / "checkpoints" / "3")
  with pytest.raises(UserError, match="holds no checkpoint"):
    load.open_generator(workdir, dtype="float32")


@pytest.mark.parametrize("path", ["nowhere", "no/such/tiny_sft"])
def test_no_model_at_all(path):
  with pytest.raises(UserError, match="no model at"):
    load.load_generator(path, dtype="float32")


def test_another_architecture_is_named(tmp_path):
  transformers.CLIPConfig().save_pretrained(tmp_path)
  with pytest.raises(UserError, match="model_type 'clip'; expected 'janus'"):
    load.load_generator(tmp_path, dtype="float32")


def test_weights_of_another_size_are_named(tmp_path):
  folder = tiny_janus.save(tmp_path)
  text = json.loads((folder / "config.json").read_text())["text_config"]
  tiny_janus.edit(
    folder / "config.json", text_config=text | {"intermediate_size": 57}
  )
  with pytest.raises(UserError) as error:
    load.load_generator(folder, dtype="float32")
  assert "mlp.down_proj.weight (3 tensors): expected [40, 57]" in str(
    error.value
  )
  assert "found [40, 56]" in str(error.value)


def test_a_head_that_must_be_there_and_is_not(tmp_path):
  folder = tiny_janus.save(tmp_path, tiny_janus.torch_model(tied=True))
  tiny_janus.edit(folder / "config.json", tie_word_embeddings=False)
  with pytest.raises(UserError, match=r"lm_head\.weight: missing"):
    load.load_generator(folder, dtype="float32")


def test_a_truncated_file_is_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  file = folder / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(UserError, match=r"model\.safetensors"):
    load.load_generator(folder, dtype="float32")


def test_a_pickle_is_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  (folder / "model.safetensors").unlink()
  torch.save({}, folder / "pytorch_model.bin")
  with pytest.raises(UserError, match=r"pytorch_model\.bin: refused"):
    load.load_generator(folder, dtype="float32")


def test_clip_comes_with_its_tokenizer(tmp_path):
  tower = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
  }
  theirs = transformers.CLIPModel(
    transformers.CLIPConfig(
      text_config=tower
      | {"vocab_size": 303, "max_position_embeddings": 16, "eos_token_id": 1},
      vision_config=tower | {"image_size": 16, "patch_size": 8},
      projection_dim=12,
    )
  )
  theirs.save_pretrained(tmp_path)
  testing.janus_tokenizer().save_pretrained(tmp_path)
  side = {"size": {"shortest_edge": 16}, "crop_size": 16}
  transformers.CLIPImageProcessorPil(**side).save_pretrained(tmp_path)
  clip, params, tokenizer = load.load_clip(tmp_path, dtype="bfloat16")
  assert clip.dtype == "bfloat16"
  assert len(tokenizer) == len(testing.janus_tokenizer())
  assert tokenizer.model_max_length == 16  # not more than it has positions for
  np.testing.assert_array_equal(
    params["visual_projection"]["kernel"],
    theirs.visual_projection.weight.detach().numpy().T,
  )
