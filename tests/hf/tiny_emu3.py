"""A random Emu3 of transformers whose sizes fit nothing, and ours of it."""

import functools
import json

import jax
import numpy as np
import tokenizers
import torch
import transformers

from genrec_jax.hf import emu3 as hf_emu3
from genrec_jax.hf import load
from genrec_jax.hf.rules import to_params
from tests.hf import random_emu3
from tests.hf.tiny_janus import edit, values

__all__ = ["edit"]

CODES, SIZE, READ = 37, 32, 16  # codebook, pixels generated and read
SPECIAL = {
  "pad_token": "<|endoftext|>",
  "bos_token": "<|extra_203|>",
  "eos_token": "<|extra_204|>",
  "image_token": "<image>",
  "boi_token": "<|image start|>",
  "eoi_token": "<|image end|>",
  "image_wrapper_token": "<|image token|>",
  "eof_token": "<|extra_201|>",
}
ROW_END = "<|extra_200|>"
CHAT = (
  "{% for message in messages %}"
  "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}"
  "{% endif %}{% for part in message['content'] %}"
  "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
  "{{ ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}"
  "{% endif %}"
)
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26, 0.27577711]
VQ = random_emu3.vq_sizes(
  {
    "codebook_size": CODES,
    "base_channels": 32,
    "channel_multiplier": [1, 2, 1, 1],  # 8 pixels a code, as the published
    "num_res_blocks": 1,
    "temporal_downsample_factor": 4,
  }
)
TEXT = {
  "hidden_size": 40,
  "intermediate_size": 56,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
  "max_position_embeddings": 500,
}


@functools.cache
def tokenizer(scattered=False):
  """Returns a byte-level tokenizer with a token for each code.

  Args:
    scattered: whether codes have their tokens in another order.
  """
  codes = [f"<|visual token {i:06d}|>" for i in range(CODES)]
  codes = codes[::-1] if scattered else codes
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=330,
    special_tokens=[*SPECIAL.values(), *codes, ROW_END],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  texts = ["large red striped circle on sand", "draw the next item: a cross"]
  model.train_from_iterator(texts * 20, trainer)
  own = ("pad_token", "bos_token", "eos_token")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    padding_side="left",
    extra_special_tokens={k: v for k, v in SPECIAL.items() if k not in own},
    **{name: SPECIAL[name] for name in own},
  )


def torch_model(*, scattered=False, tied=False, seed=0):
  """Returns a model whose activations are of order one."""
  vocabulary = tokenizer(scattered).get_vocab()
  ids = {
    f"{name}_token_id": vocabulary[SPECIAL[f"{name}_token"]]
    for name in ("pad", "bos", "eos")
  }
  config = transformers.Emu3Config(
    vq_config=VQ,
    text_config=TEXT | ids | {"vocab_size": len(vocabulary) + 3},
    vocabulary_map=vocabulary,
    tie_word_embeddings=tied,
  )
  torch.manual_seed(seed)
  model = transformers.Emu3ForConditionalGeneration(config)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "vqmodel" in name:
        continue
      if parameter.ndim == 1:
        parameter.add_(0.3 * torch.randn_like(parameter))
      elif "embed" in name:
        parameter.normal_()
      else:
        parameter.normal_(std=1.2 * parameter[0].numel() ** -0.5)
  random_emu3.randomised_vq(model.model.vqmodel)
  model.generation_config = transformers.GenerationConfig(
    **ids, do_sample=False
  )
  return model.eval()


def image_processor():
  """Returns transformers' image processor, which leaves sizes as they are."""
  return transformers.Emu3ImageProcessor(
    image_mean=MEAN, image_std=STD, min_pixels=8 * 8, max_pixels=2**20
  )


def processor(scattered=False):
  """Returns transformers' processor."""
  return transformers.Emu3Processor(
    image_processor(), tokenizer(scattered), chat_template=CHAT
  )


def save(folder, theirs=None, scattered=False, chat=CHAT):
  """Writes a folder in HF format with our sizes, as an export of ours has."""
  (theirs or pair()[0]).save_pretrained(folder)
  whole = processor(scattered)
  whole.chat_template = chat
  whole.save_pretrained(folder)
  edit(folder / "config.json", image_size=SIZE, read_size=READ)
  return folder


def ours_of(theirs, scattered=False):
  """Returns our model, its parameters, numpy float32, and its processor."""
  config = json.loads(theirs.config.to_json_string(use_diff=False))
  config |= {"image_size": SIZE, "read_size": READ}
  ours = hf_emu3.Emu3Processor(
    tokenizer=tokenizer(scattered),
    **_special_ids(scattered),
    max_positions=500,
    image_size=SIZE,
    read_size=READ,
    downsampling=8,
    pixel_mean=tuple(MEAN),
    pixel_std=tuple(STD),
    chat_template=CHAT,
  )
  tensors = tensors_of(theirs)
  model = hf_emu3.model_from_hf(config, ours, tensors)
  expected = jax.eval_shape(model.init, jax.random.key(0))
  stored = to_params(hf_emu3.rules(model), tensors, expected, hf_emu3.IGNORED)
  return model, values(stored), ours


def _special_ids(scattered):
  vocabulary = tokenizer(scattered).get_vocab()
  fields = {
    "bos_id": "bos_token",
    "pad_id": "pad_token",
    "boi_id": "boi_token",
    "eoi_id": "eoi_token",
    "wrapper_id": "image_wrapper_token",
    "frame_end_id": "eof_token",
    "image_id": "image_token",
  }
  ids = {name: vocabulary[SPECIAL[token]] for name, token in fields.items()}
  return ids | {"end_ids": (vocabulary[SPECIAL["eos_token"]],)}


def tensors_of(theirs):
  """Returns what a checkpoint would hold: a tied head is left out."""
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  if theirs.config.tie_word_embeddings:
    del tensors["lm_head.weight"]
  return tensors


@functools.cache
def pair(scattered=False):
  """Returns (torch model, our model, our parameters, our processor)."""
  theirs = torch_model(scattered=scattered)
  return theirs, *ours_of(theirs, scattered)


def opened(folder, **sizes):
  """Returns a folder, opened."""
  return load.open_generator(folder, dtype="float32", **sizes)


def random_images(count=2, side=READ):
  """Returns images as they are read, uint8 [count, S, S, 3]."""
  rng = np.random.default_rng(3)
  return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def pixel_values(images):
  """Normalises uint8 [n, h, w, 3] as transformers does: [n, 3, h, w]."""
  pixels = (images / 255 - np.asarray(MEAN)) / np.asarray(STD)
  return torch.tensor(pixels.transpose(0, 3, 1, 2).astype(np.float32))
