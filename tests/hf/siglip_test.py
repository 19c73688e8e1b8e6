"""SigLIP folders: as published, with their tokenizer, damaged."""

import json
import warnings

import jax
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
import torch
import transformers

from genrec_jax import testing
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core.errors import UserError
from genrec_jax.data import world
from genrec_jax.evals.encoders import read_judges, tokenize
from genrec_jax.hf import encoders, rules, siglip
from tests.hf import random_encoders

# As google/siglip-so400m-patch14-384 has them, of transformers 4.37.
SO400M = {
  "architectures": ["SiglipModel"],
  "initializer_factor": 1.0,
  "model_type": "siglip",
  "text_config": {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "model_type": "siglip_text_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
  },
  "torch_dtype": "float32",
  "transformers_version": "4.37.0.dev0",
  "vision_config": {
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
  },
}
PROCESSOR = {
  "do_normalize": True,
  "do_rescale": True,
  "do_resize": True,
  "image_mean": [0.5, 0.5, 0.5],
  "image_processor_type": "SiglipImageProcessor",
  "image_std": [0.5, 0.5, 0.5],
  "processor_class": "SiglipProcessor",
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": {"height": 384, "width": 384},
}


@pytest.mark.parametrize(
  ("changes", "side"),
  [
    (SO400M, 384),
    # google/siglip-base-patch16-224: sections with nothing but their types.
    (
      {
        "text_config": {"model_type": "siglip_text_model"},
        "vision_config": {"model_type": "siglip_vision_model"},
      },
      224,
    ),
    # google/siglip2-base-patch16-224, Gemma's vocabulary.
    (
      {
        "text_config": {"projection_size": 768, "vocab_size": 256000},
        "vision_config": {},
      },
      224,
    ),
  ],
)
def test_every_tensor_of_the_published_sizes_has_a_rule(changes, side):
  config = {"model_type": "siglip"} | changes
  size = {"size": {"height": side, "width": side}}
  ours = siglip.config_from_hf(config, PROCESSOR | size)
  assert ours.text_positions == 64
  whole = transformers.SiglipConfig.from_dict(json.loads(json.dumps(config)))
  with torch.device("meta"):
    theirs = transformers.SiglipModel(whole)
  tensors = {
    name: jax.ShapeDtypeStruct(tuple(tensor.shape), np.float32)
    for name, tensor in theirs.state_dict().items()
  }
  # Raises unless every tensor is matched, in name and shape, by exactly one
  # rule, and every rule matches a tensor.
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  rules.to_params(siglip.rules(ours), tensors, expected)


def test_special_tokens_of_another_vocabulary_are_not_warned_of(caplog):
  with warnings.catch_warnings(record=True) as caught:
    siglip.config_from_hf(SO400M, PROCESSOR)
  assert not caught
  assert not caplog.records


def test_all_that_is_unsupported_in_one_message():
  config = {
    "model_type": "siglip",
    "text_config": {"hidden_size": 50, "hidden_act": "relu"},
    "vision_config": {"num_channels": 1, "vision_use_head": False},
  }
  with pytest.raises(UserError) as error:
    siglip.config_from_hf(config, PROCESSOR | {"do_rescale": False})
  for fault in (
    "hidden_act is 'relu'",
    "hidden_size 50 is not a multiple of num_attention_heads 12",
    "num_channels is 1; expected 3",
    "vision_use_head is False; expected True",
    "projection_size is 50; expected hidden_size of vision_config, 768",
    "do_rescale is false",
  ):
    assert fault in str(error.value)
  with pytest.raises(UserError, match="become 384 pixels a side; expected the"):
    siglip.config_from_hf({"model_type": "siglip"}, PROCESSOR)
  with pytest.raises(UserError, match="'siglip_vision_model'; expected 'sig"):
    siglip.config_from_hf({"model_type": "siglip_vision_model"}, PROCESSOR)


@pytest.fixture(scope="module")
def titles():
  truth = world.attributes(np.arange(0, world.NUM_ITEMS, 40))
  return [world.title(item) for item in truth]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, titles):
  """Returns the file of a small vocabulary, in SigLIP's format."""
  prefix = tmp_path_factory.mktemp("vocabulary") / "spiece"
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(titles),
    model_prefix=str(prefix),
    vocab_size=45,
    add_dummy_prefix=False,
    unk_id=2,
    bos_id=-1,
    pad_id=0,
    eos_id=1,
    minloglevel=2,
  )
  return f"{prefix}.model"


@pytest.fixture
def folder(tmp_path, vocabulary):
  theirs, processor = random_encoders.siglip("two_widths")
  tokenizer = transformers.SiglipTokenizer(vocabulary, model_max_length=64)
  return random_encoders.save(tmp_path / "m", theirs, processor, tokenizer)


def test_titles_as_the_original_reads_them(folder, titles):
  handle = encoders.open_encoder(folder, dtype="float32")
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  (judge,) = read_judges((handle,), mesh)
  # Letters and marks that it leaves out, and a title that is cut.
  given = ["Large, RED circle!", titles[1] * 3, titles[2], ""]
  ids, mask = tokenize(judge.tokenizer, given, reads_padding=True)
  assert ids.shape == (4, 9)
  assert mask.all()
  same, _ = tokenize(judge.tokenizer, ["large red circle"], reads_padding=True)
  assert ids[0].tolist() == same[0].tolist()
  theirs = transformers.SiglipModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  tokens = tokenizer(
    given, padding="max_length", max_length=9, truncation=True
  )["input_ids"]
  with torch.no_grad():
    expected = theirs.get_text_features(torch.tensor(tokens)).pooler_output
  expected /= expected.norm(dim=-1, keepdim=True)
  found = judge.embed_texts(given)
  np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_half_a_checkpoint(folder):
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  vision = {k: v for k, v in tensors.items() if k.startswith("vision")}
  safetensors.numpy.save_file(vision, path)
  with pytest.raises(UserError, match=r"text_model.*: missing"):
    encoders.open_encoder(folder, dtype="float32")


def test_no_tokenizer(folder):
  for path in (*folder.glob("spiece*"), *folder.glob("token*")):
    path.unlink()
  with pytest.raises(UserError, match="cannot read the tokenizer in ") as error:
    encoders.open_encoder(folder, dtype="float32")
  assert "\n" not in str(error.value)


def test_shards_in_half_precision(tmp_path):
  theirs, processor = random_encoders.siglip("one_width")
  expected = {k: v.half().float() for k, v in theirs.state_dict().items()}
  theirs.half().save_pretrained(tmp_path, max_shard_size="20KB")
  processor.save_pretrained(tmp_path)
  testing.word_tokenizer().save_pretrained(tmp_path)
  assert len(list(tmp_path.glob("*.safetensors"))) > 2
  _, params = random_encoders.opened(tmp_path)
  np.testing.assert_array_equal(
    params["vision_model"]["head"]["attention"]["in_proj"]["kernel"],
    expected["vision_model.head.attention.in_proj_weight"].numpy().T,
  )
