"""Random checkpoints of SigLIP and DINOv2 whose sizes fit nothing."""

import json

import numpy as np
import torch
import transformers
from transformers.models.bit.image_processing_pil_bit import (
  BitImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import (
  SiglipImageProcessorPil,
)

from genrec_jax import testing
from genrec_jax.hf import encoders

# name -> (config, sides of the processor: shortest, crop).
DINOV2 = {
  # 7 x 7 stored positions for 4 x 4 patches and a rest of 3 pixels.
  "fewer_patches": (
    {
      "hidden_size": 24,
      "num_hidden_layers": 3,
      "num_attention_heads": 3,
      "mlp_ratio": 2,
      "image_size": 35,
      "patch_size": 5,
    },
    (29, 23),
  ),
  # As giant's MLP; 26 * 3 * 2 / 3 = 52 becomes 56.
  "gated": (
    {
      "hidden_size": 26,
      "num_hidden_layers": 2,
      "num_attention_heads": 2,
      "mlp_ratio": 3,
      "image_size": 24,
      "patch_size": 8,
      "use_swiglu_ffn": True,
      "qkv_bias": False,
      "layer_norm_eps": 1e-4,
    },
    (24, 24),
  ),
  "more_patches": (
    {
      "hidden_size": 20,
      "num_hidden_layers": 1,
      "num_attention_heads": 5,
      "mlp_ratio": 4,
      "image_size": 14,
      "patch_size": 7,
      "hidden_act": "gelu_pytorch_tanh",
      "use_mask_token": False,
    },
    (45, 42),
  ),
}
TEXT = {
  "vocab_size": 61,
  "hidden_size": 30,
  "intermediate_size": 44,
  "num_hidden_layers": 2,
  "num_attention_heads": 5,
  "max_position_embeddings": 9,
}
SIGLIP = {
  # Images and texts differ in every size; 31 pixels are 4 patches and a rest.
  "two_widths": {
    "text_config": TEXT | {"projection_size": 24},
    "vision_config": {
      "hidden_size": 24,
      "intermediate_size": 37,
      "num_hidden_layers": 3,
      "num_attention_heads": 3,
      "image_size": 31,
      "patch_size": 7,
      "layer_norm_eps": 1e-4,
    },
  },
  "one_width": {
    "text_config": TEXT | {"hidden_act": "gelu", "num_hidden_layers": 1},
    "vision_config": {
      "hidden_size": 30,
      "intermediate_size": 20,
      "num_hidden_layers": 1,
      "num_attention_heads": 2,
      "image_size": 16,
      "patch_size": 8,
      "hidden_act": "quick_gelu",
    },
  },
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def shaken(model, seed=0):
  """Returns a model whose norms, biases and scales are not trivial."""
  torch.manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "logit" not in name:
        parameter.add_(0.1 * torch.randn_like(parameter))
  return model.eval()


def dinov2(name):
  """Returns a torch model and its image processor."""
  torch.manual_seed(1)
  config, (shortest, crop) = DINOV2[name]
  model = transformers.Dinov2Model(transformers.Dinov2Config(**config))
  processor = BitImageProcessorPil(
    size={"shortest_edge": shortest},
    crop_size={"height": crop, "width": crop},
    image_mean=MEAN,
    image_std=STD,
  )
  return shaken(model), processor


def siglip(name):
  """Returns a torch model and its image processor."""
  torch.manual_seed(1)
  config = SIGLIP[name]
  model = transformers.SiglipModel(transformers.SiglipConfig(**config))
  side = config["vision_config"]["image_size"]
  processor = SiglipImageProcessorPil(
    size={"height": side, "width": side}, resample=2
  )
  return shaken(model), processor


def save(folder, model, processor, tokenizer=None):
  """Writes a folder as `save_pretrained` does; returns it."""
  model.save_pretrained(folder)
  processor.save_pretrained(folder)
  if tokenizer is not None:
    tokenizer.save_pretrained(folder)
  return folder


def opened(folder):
  """Returns our model and its parameters of a folder."""
  handle = encoders.open_encoder(folder, dtype="float32")
  return handle.model, handle.read()


def edit(path, **changes):
  """Changes keys of a JSON file; None takes a key out."""
  value = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def image(height, width):
  """Returns a smooth uint8 image, which no integers clip."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  values = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x) * np.cos(7 * y)], -1)
  return np.round(255 * (0.1 + 0.8 * values)).astype(np.uint8)


word_tokenizer = testing.word_tokenizer
