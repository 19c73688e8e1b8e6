"""Checkpoints of transformers with random weights, as large as one likes."""

import torch
import transformers
from transformers.models.janus.image_processing_pil_janus import (
  JanusImageProcessorPil,
)

from genrec_jax.testing import BOI, BOS, EOS, IMAGE, PAD, janus_tokenizer

TEXT_IDS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def model(*, text, vision, vq, tied=False, seed=0):
  """Returns a model whose activations are of order one.

  Args:
    text: what to change of a `LlamaConfig`.
    vision: the same of a `JanusVisionConfig`.
    vq: the same of a `JanusVQVAEConfig`.
    tied: whether the head of the words is their embedding.
    seed: of the weights.
  """
  config = transformers.JanusConfig(
    text_config=transformers.LlamaConfig(**(TEXT_IDS | text)),
    vision_config=vision,
    vq_config=vq,
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


def janus_pro_1b(device="cpu"):
  """Returns a model in the sizes of Janus-Pro-1B, in bfloat16."""
  config = published_config(2048, 5632, 24, 16, image_id=IMAGE, **TEXT_IDS)
  # Never in float32, which would take twice the memory.
  with torch.device("meta"):
    model = transformers.JanusForConditionalGeneration(config)
  model = model.bfloat16().to_empty(device=device)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.fill_(0 if name.endswith("bias") else 1)
  rotary = model.model.language_model.rotary_emb
  # Not saved, so never made by a load: of the config alone.
  model.model.language_model.rotary_emb = type(rotary)(config.text_config).to(
    device
  )
  torch.manual_seed(0)
  model = randomised(model)
  # Else the code before counts for little, and all codes would be the same.
  model.model.generation_aligner.hidden_layers[0].weight.data *= 6
  return model


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


def image_processor(side):
  """Returns transformers' image processor for images of `side` pixels."""
  return JanusImageProcessorPil(
    size={"height": side, "width": side},
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
  )


def save_settings(folder, side):
  """Writes the tokenizer and the image processor."""
  janus_tokenizer().save_pretrained(folder)
  image_processor(side).save_pretrained(folder)
  return folder
