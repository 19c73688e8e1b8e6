"""What is exported is what transformers loads, bit for bit."""

import numpy as np
import pytest
from safetensors.numpy import load_file
import torch
import transformers

from genrec_jax.core.errors import UserError
from genrec_jax.hf import load
from genrec_jax.hf.export import export_generator
from tests.hf import tiny_janus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_janus.save(tmp_path_factory.mktemp("janus"))


@pytest.mark.parametrize("tied", [True, False])
def test_import_then_export_is_the_same_file(tmp_path, tied):
  source = tmp_path / "source"
  tiny_janus.save(source, tiny_janus.torch_model(tied=tied))
  loaded = load.load_generator(source, dtype="float32")
  out = tmp_path / "out"
  export_generator(out, loaded.model, loaded.params, source, "float32")
  expected = load_file(source / "model.safetensors")
  found = load_file(out / "model.safetensors")
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  assert {p.name for p in out.iterdir()} >= {p.name for p in source.iterdir()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_loads_all_of_it(folder, tmp_path, dtype):
  loaded = load.load_generator(folder, dtype="float32")
  params = {**loaded.params}
  params["aligner"] = {
    **params["aligner"],
    "fc1": {name: x + 1 for name, x in params["aligner"]["fc1"].items()},
  }
  out = tmp_path / "out"
  export_generator(out, loaded.model, params, folder, dtype)
  model, info = transformers.JanusForConditionalGeneration.from_pretrained(
    out, output_loading_info=True
  )
  assert not any(info.values()), info
  assert model.dtype == getattr(torch, dtype)
  np.testing.assert_array_equal(
    model.model.aligner.fc1.bias.detach().float().numpy(),
    torch.tensor(params["aligner"]["fc1"]["bias"])
    .to(model.dtype)
    .float()
    .numpy(),
  )
  again = load.load_generator(out, dtype="float32")
  assert again.model == loaded.model
  ids = tiny_janus.prompts(with_images=False)[0][2:, -6:]
  drawn = model.generate(
    input_ids=torch.tensor(ids).long(),
    attention_mask=torch.ones(ids.shape).long(),
    generation_mode="image",
  )
  assert drawn.shape == (1, tiny_janus.PATCHES)


def test_a_folder_in_use_is_left_alone(folder, tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  loaded = load.load_generator(folder, dtype="float32")
  with pytest.raises(UserError, match="not an empty folder"):
    export_generator(tmp_path, loaded.model, loaded.params, folder, "float32")
  assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
