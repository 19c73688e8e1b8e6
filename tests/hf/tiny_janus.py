"""A random Janus of transformers whose sizes fit nothing, and ours of it."""

import functools
import json

import grain
import jax
import numpy as np

from genrec_jax.core.types import TrainState
from genrec_jax.hf import janus as hf_janus
from genrec_jax.hf import janus_config, workdir_model
from genrec_jax.hf.rules import to_params
from genrec_jax.runtime import checkpoint, run_config, saved_params
from genrec_jax.testing import BOI, BOS, EOI, IMAGE, PAD, VOCABULARY
from tests.hf import random_janus

published_config = random_janus.published_config
SIDE = 20  # pixels
PATCHES = 25
CODES = 50

TEXT = {
  "vocab_size": VOCABULARY,
  "hidden_size": 40,
  "intermediate_size": 56,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 14,  # not 40 / 4
  "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
  "rms_norm_eps": 1e-5,
  "max_position_embeddings": 256,
  **random_janus.TEXT_IDS,
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
# The lengths of the sums that a value passes, see tests/rounding.py: two norms,
# the projections q and o, a score, the softmax and the sum over up to 64 keys,
# and the two products of the MLP.
LAYER_TERMS = 2 * 40 + 40 + 56 + 14 + 2 * 64 + 40 + 56
VISION_LAYER_TERMS = 2 * 36 + 2 * 36 + 12 + 2 * PATCHES + 36 + 90
LANGUAGE_TERMS = TEXT["num_hidden_layers"] * LAYER_TERMS + 40


def torch_model(*, tied=False, text=None, vision=None, vq=None, seed=0):
  """Returns a model whose activations are of order one."""
  return random_janus.model(
    text=TEXT | (text or {}),
    vision=VISION | (vision or {}),
    vq=VQ | (vq or {}),
    tied=tied,
    seed=seed,
  )


def ours_of(theirs):
  """Returns our model and its parameters, numpy float32."""
  model = janus_config.config_from_hf(
    theirs.config.to_dict(), bos_id=BOS, pad_id=PAD, boi_id=BOI
  )
  expected = jax.eval_shape(model.init, jax.random.key(0))
  tensors = tensors_of(theirs)
  return model, values(to_params(hf_janus.rules(model), tensors, expected))


def read_params(workdir, step=None):
  """Returns a workdir's trained parameters as numpy arrays."""
  saved = saved_params.open_params(workdir, step)
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


def image_processor(side=SIDE):
  """Returns transformers' image processor of the model."""
  return random_janus.image_processor(side)


def save(folder, theirs=None, **options):
  """Writes a folder in HF format, as `save_pretrained` does."""
  (theirs or pair()[0]).save_pretrained(folder, **options)
  return save_settings(folder)


def save_settings(folder, side=SIDE):
  """Writes the tokenizer and the image processor."""
  return random_janus.save_settings(folder, side)


def make_workdir(path, base, params):
  """Writes what a run leaves."""
  section, key = run_config.FINGERPRINT.split(".")
  config = {
    section: {"checkpoint": str(base), key: workdir_model.fingerprint(base)},
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
    # What stands for an image in a history goes as a whole; one begin of image,
    # the last token, stays.
    rows = [
      [*(i for i in row if i not in (BOI, IMAGE, EOI)), BOI] for row in rows
    ]
  length = max(map(len, rows)) + 2
  ids = np.asarray([[PAD] * (length - len(r)) + r for r in rows], np.int32)
  images = np.random.default_rng(0).integers(
    0, 256, (3, 2, SIDE, SIDE, 3), np.uint8
  )
  return ids, ids != PAD, images
