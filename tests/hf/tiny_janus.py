"""A random Janus of transformers whose sizes fit nothing, and ours of it."""

import functools
import json

import grain
import jax
import numpy as np
import tokenizers
import torch
import transformers
from transformers.models.janus.image_processing_pil_janus import (
  JanusImageProcessorPil,
)

from genrec_jax.core import checkpoint
from genrec_jax.core import workdir as workdir_lib
from genrec_jax.core.types import TrainState
from genrec_jax.hf import janus as hf_janus
from genrec_jax.hf import load
from genrec_jax.hf.rules import to_params

TOKENS = {
  "bos_token": "<｜begin▁of▁sentence｜>",
  "eos_token": "<｜end▁of▁sentence｜>",
  "pad_token": "<｜▁pad▁｜>",
  "image_token": "<image_placeholder>",
  "boi_token": "<begin_of_image>",
  "eoi_token": "<end_of_image>",
}
BOS, EOS, PAD, IMAGE, BOI, EOI = range(6)
SIDE = 20  # pixels
PATCHES = 25
CODES = 50

TEXT = {
  "vocab_size": 303,
  "hidden_size": 40,
  "intermediate_size": 56,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 14,  # not 40 / 4
  "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
  "rms_norm_eps": 1e-5,
  "max_position_embeddings": 256,
  "bos_token_id": BOS,
  "eos_token_id": EOS,
  "pad_token_id": PAD,
}
VISION = {
  "hidden_size": 36,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "image_size": SIDE,
  "patch_size": 4,
  "mlp_ratio": 2.5,
  "projection_dim": 40,
  "depth": 3,
  "num_image_tokens": PATCHES,
}
VQ = {
  "embed_dim": 6,
  "num_embeddings": CODES,
  "latent_channels": 24,
  "base_channels": 32,
  "channel_multiplier": [1, 3, 2],
  "num_res_blocks": 1,
  "projection_dim": 40,
  "image_token_embed_dim": 40,
  "num_hidden_layers": 2,
}


def torch_model(*, tied=False, text=None, vision=None, vq=None, seed=0):
  """Returns a model whose activations are of order one."""
  config = transformers.JanusConfig(
    text_config=transformers.LlamaConfig(**(TEXT | (text or {}))),
    vision_config=VISION | (vision or {}),
    vq_config=VQ | (vq or {}),
    image_token_id=IMAGE,
    tie_word_embeddings=tied,
  )
  torch.manual_seed(seed)
  return randomised(transformers.JanusForConditionalGeneration(config))


def published_config(width, mlp_width, layers, heads, *, image_id, **ids):
  """Returns the config of a Janus-Pro of DeepSeek.

  What transformers' convert_janus_weights_to_hf.py writes for it; the rest it
  leaves to the defaults.
  """
  return transformers.JanusConfig(
    text_config=transformers.LlamaConfig(
      vocab_size=102400,
      hidden_size=width,
      intermediate_size=mlp_width,
      num_hidden_layers=layers,
      num_attention_heads=heads,
      num_key_value_heads=heads,
      max_position_embeddings=16384,
      **ids,
    ),
    vision_config={"image_size": 384, "projection_dim": width, "depth": 2},
    vq_config={
      "embed_dim": 8,
      "num_embeddings": 16384,
      "projection_dim": width,
      "depth": 2,
      "image_token_embed_dim": width,
    },
    image_token_id=image_id,
    tie_word_embeddings=False,
  )


def randomised(model):
  """Fills a model with values that keep activations of order one."""
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if parameter.ndim == 1:  # norms and biases start trivial
        parameter.add_(0.3 * torch.randn_like(parameter))
      elif "embed" in name or "quantize" in name:
        parameter.normal_()
      else:
        parameter.normal_(std=1.2 * parameter[0].numel() ** -0.5)
  model.generation_config = transformers.GenerationConfig(
    bos_token_id=BOS,
    eos_token_id=EOS,
    pad_token_id=PAD,
    guidance_scale=5,
    do_sample=False,
    generation_kwargs={"boi_token_id": BOI},
  )
  return model.eval()


def ours_of(theirs):
  """Returns our model and its parameters, numpy float32."""
  model = hf_janus.config_from_hf(
    theirs.config.to_dict(), bos_id=BOS, pad_id=PAD, boi_id=BOI
  )
  expected = jax.eval_shape(model.init, jax.random.key(0))
  tensors = tensors_of(theirs)
  return model, values(to_params(hf_janus.rules(model), tensors, expected))


def read_params(workdir, step=None):
  """Returns a workdir's trained parameters as numpy arrays."""
  saved = checkpoint.open_params(workdir, step)
  return jax.tree.map(lambda leaf: leaf[...], saved)


def values(stored, dtype=np.float32):
  """Returns what `to_params` found as numpy arrays."""
  return jax.tree.map(
    lambda leaf: leaf.read((slice(None),) * len(leaf.shape), dtype), stored
  )


def tensors_of(theirs):
  """Returns what a checkpoint would hold: a tied head is left out."""
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  if theirs.config.tie_word_embeddings:
    del tensors["lm_head.weight"]
  return tensors


@functools.cache
def pair():
  """Returns (torch model, our model, our parameters)."""
  theirs = torch_model()
  return theirs, *ours_of(theirs)


@functools.cache
def tokenizer():
  """Returns a byte-level tokenizer with Janus's special tokens."""
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=TEXT["vocab_size"],
    special_tokens=list(TOKENS.values()),
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  texts = ["large red striped circle on sand", "draw the next item: a cross"]
  model.train_from_iterator(texts * 20, trainer)
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single=f"{TOKENS['bos_token']} $A",
    special_tokens=[(TOKENS["bos_token"], BOS)],
  )
  named = ("bos_token", "eos_token", "pad_token")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    padding_side="left",
    extra_special_tokens={k: v for k, v in TOKENS.items() if k not in named},
    **{k: v for k, v in TOKENS.items() if k in named},
  )


def image_processor(side=SIDE):
  """Returns transformers' image processor of the model."""
  return JanusImageProcessorPil(
    size={"height": side, "width": side},
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
  )


def save(folder, theirs=None, **options):
  """Writes a folder in HF format, as `save_pretrained` does."""
  (theirs or pair()[0]).save_pretrained(folder, **options)
  return save_settings(folder)


def save_settings(folder, side=SIDE):
  """Writes the tokenizer and the image processor."""
  tokenizer().save_pretrained(folder)
  image_processor(side).save_pretrained(folder)
  return folder


def make_workdir(path, base, params):
  """Writes what a run leaves."""
  section, key = workdir_lib.FINGERPRINT.split(".")
  config = {
    section: {"checkpoint": str(base), key: load.fingerprint(base)},
  }
  path.mkdir(exist_ok=True)
  (path / "config.json").write_text(json.dumps(config))
  manager = checkpoint.open_manager(str(path), keep=1)
  state = TrainState(step=np.int32(3), params=params, opt_state={})
  iterator = iter(grain.MapDataset.range(4).to_iter_dataset())
  checkpoint.save(manager, jax.tree.map(jax.numpy.asarray, state), iterator)
  manager.close()
  return path


def edit(path, **changes):
  """Changes keys of a JSON file; None takes a key out."""
  value = json.loads(path.read_text())
  value.update(changes)
  path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def prompts(with_images: bool):
  """Returns ids [3, T], mask [3, T] and images [3, 2, S, S, 3] uint8.

  Rows are left-padded; with images they hold two, one and none.
  """
  picture = [BOI, *[IMAGE] * PATCHES, EOI]
  rows = [
    [BOS, 70, 81, *picture, 92, 77, *picture, 60, 61, BOI],
    [BOS, 100, *picture, 101, 102, 103, BOI],
    [BOS, 7, 8, 9, 10, 11, BOI],
  ]
  if not with_images:
    rows = [[i for i in row if i not in (IMAGE, EOI)] for row in rows]
  length = max(map(len, rows)) + 2
  ids = np.asarray([[PAD] * (length - len(r)) + r for r in rows], np.int32)
  images = np.random.default_rng(0).integers(
    0, 256, (3, 2, SIDE, SIDE, 3), np.uint8
  )
  return ids, ids != PAD, images
