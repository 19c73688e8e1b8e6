"""What the torch tool reads of a folder, and how it refuses damaged ones."""

import shutil

import pytest
from safetensors.torch import load_file, save_file
import torch

from genrec_jax.core.errors import UserError
from genrec_jax.hf.janus_processor import JanusProcessor
from genrec_jax.hf.load import load_generator
from genrec_jax.testing import BOI, IMAGE
from tests.hf import bad_input_test, tiny_janus
from tests.tools.process import ROOT
from tools import hf_inference
from tools.hf_inference import checkpoint, command

ASSETS = ROOT / "genrec_jax/assets"


def test_bos_ids_that_contradict_each_other_are_refused(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  tiny_janus.edit(tmp_path / "generation_config.json", bos_token_id=9)
  message = "bos_token_id is 0 in the tokenizer and 9 in config.json or gen"
  with pytest.raises(UserError, match=message):
    load_generator(tmp_path, dtype="float32")
  with pytest.raises(ValueError, match=message):
    hf_inference.load(tmp_path)


def test_ids_are_taken_where_the_package_takes_them(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  for changes in (
    {"pad_token_id": 70, "eos_token_id": [1, 71], "generation_kwargs": None},
    {"pad_token_id": None, "boi_token_id": BOI},
    None,
  ):
    file = tmp_path / "generation_config.json"
    if changes:
      tiny_janus.edit(file, **changes)
    else:
      file.unlink()
    ours = JanusProcessor.from_pretrained(tmp_path)
    theirs = hf_inference.load(tmp_path)[0].generation_config
    assert theirs.bos_token_id == ours.bos_id
    assert theirs.pad_token_id == ours.pad_id
    assert theirs.generation_kwargs == {"boi_token_id": ours.boi_id}
    ends = theirs.eos_token_id
    assert (ends if isinstance(ends, list) else [ends]) == list(ours.end_ids)


def test_tensors_that_do_not_fit_are_listed_with_their_file(tmp_path):
  folder = tiny_janus.save(tmp_path / "janus")
  tensors = load_file(folder / "model.safetensors")
  tensors.pop("model.aligner.fc1.bias")
  tensors["other"] = torch.zeros(1)
  tensors["model.aligner.hidden_layers.0.bias"] = torch.zeros(3)
  tensors["model.aligner.fc1.weight"] = tensors[
    "model.aligner.fc1.weight"
  ].int()
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  with pytest.raises(
    ValueError, match="4 in all; get the files again"
  ) as error:
    hf_inference.load(folder)
  for problem in (
    "fc1.bias is absent, expected float [40]",
    "fc1.weight is I32 [40, 36], expected float [40, 36]",
    "hidden_layers.0.bias is float [3], expected float [40]",
  ):
    assert f"model.safetensors: model.aligner.{problem}" in str(error.value)
  assert "model.safetensors: other is float [1], expected nothing" in str(
    error.value
  )


def test_a_tied_head_may_be_left_out(tmp_path):
  folder = tiny_janus.save(tmp_path / "tied", tiny_janus.torch_model(tied=True))
  assert "lm_head.weight" not in load_file(folder / "model.safetensors")
  model, _ = hf_inference.load(folder)
  assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_name_on_the_hub_is_the_folder_it_is_downloaded_to(
  folder, monkeypatch
):
  names = []

  def download(name, allow_patterns):
    names.append(name)
    assert not any("bin" in pattern for pattern in allow_patterns)
    return str(folder)

  monkeypatch.setattr(checkpoint.huggingface_hub, "snapshot_download", download)
  hf_inference.load("someone/janus")
  assert names == ["someone/janus"]


def test_another_kind_of_model_is_refused():
  with pytest.raises(ValueError, match="model_type 'clip'; expected 'janus'"):
    hf_inference.load(ASSETS / "tiny_clip")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sharded")
  return tiny_janus.save(folder, max_shard_size="200KB")


def tokens_of_another_model(folder):
  tiny_janus.edit(folder / "config.json", image_token_id=7)


def no_weight_map(folder):
  (folder / bad_input_test.INDEX).write_text("[]")


def index_beside_one_file(folder):
  """Leaves an index of other files: which of them are the model."""
  tiny_janus.save(folder)
  (folder / bad_input_test.INDEX).write_text(
    '{"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}'
  )


@pytest.mark.parametrize(
  ("damage", "expected"),
  [
    (
      bad_input_test.missing_shard,
      ("{shard} is missing or not whole (No such",),
    ),
    (
      bad_input_test.absent_tensors,
      (
        "{shard}: ghost.bias is absent, expected by the index alone",
        "{shard}: ghost.weight is absent, expected by the index alone; 2 in",
      ),
    ),
    (bad_input_test.truncated, ("{shard} is missing or not whole (Error",)),
    (
      bad_input_test.misshapen_and_extra,
      (
        "{shard}: extra.one is float [2], expected by the index alone",
        "is float [3, 1, 2], expected float [",
        "is I32 [",
      ),
    ),
    (
      bad_input_test.missing_tensors,
      ("model.safetensors.index.json: model.", "2 in all"),
    ),
    (
      bad_input_test.pickled("pytorch_model.bin"),
      ("model.safetensors is missing", "get the files again, as safetensors"),
    ),
    (
      bad_input_test.no_image_tokens,
      ("tokenizer*.json", "image_token; take these files of the same"),
    ),
    (
      tokens_of_another_model,
      ("tokenizer*.json", "is {image_id}, in config.json 7; take these files"),
    ),
    (no_weight_map, ("index.json has no weight_map; get it again",)),
    (
      index_beside_one_file,
      (
        "model-00001-of-00001.safetensors is missing or not whole",
        "model.safetensors: lm_head.weight is float",
      ),
    ),
  ],
)
def test_a_damaged_checkpoint_is_one_error(
  sharded, tmp_path, monkeypatch, damage, expected
):
  folder, out = tmp_path / "janus", tmp_path / "out"
  shutil.copytree(sharded, folder)
  shard = bad_input_test.shard(folder).name
  damage(folder)
  monkeypatch.setattr(
    checkpoint.transformers.JanusForConditionalGeneration,
    "from_pretrained",
    lambda *_, **__: pytest.fail("read what does not fit"),
  )
  with pytest.raises(SystemExit) as error:
    command.main([f"--model={folder}", "--prompt=a", f"--out={out}"])
  assert error.value.code.startswith(f"error: cannot load {folder}: ")
  assert "\n" not in error.value.code
  for part in expected:
    found = part.format(shard=shard, image_id=IMAGE)
    assert found in error.value.code
  assert [path.name for path in tmp_path.iterdir()] == ["janus"]
