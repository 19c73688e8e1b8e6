"""Checkpoints of transformers' Emu3 with random weights, small or not."""

import torch


def vq_sizes(options):
  """Returns the section of a tokenizer, with what follows from its sizes."""
  multiplier = options["channel_multiplier"]
  return options | {
    "hidden_size": options["base_channels"] * multiplier[-1],
    "attn_resolutions": [len(multiplier) - 1],
  }


def randomised_vq(model):
  """Fills a tokenizer with values that keep activations of order one."""
  with torch.no_grad():
    for name, tensor in model.state_dict().items():
      if name.endswith("num_batches_tracked"):
        continue
      if name.endswith("running_var"):
        tensor.uniform_(0.5, 2.0)
      elif name.endswith("running_mean") or tensor.ndim == 1:
        tensor.add_(0.3 * torch.randn_like(tensor))
      else:
        tensor.normal_(std=tensor[0].numel() ** -0.5)
    # Codes spread as what is coded, or all would be one.
    side = 4 * model.vision_spatial_factor
    pixels = 2 * torch.rand(2, 3, side, side) - 1
    hidden = model.encode(pixels, torch.tensor([(side, side)] * 2))
    latents = model.quant_conv(hidden.last_hidden_state.swapaxes(1, 2))
    latents = latents.swapaxes(0, 1).flatten(1)  # [E, B h' w']
    book = model.quantize.embedding.weight
    book.normal_().mul_(latents.std(1)).add_(latents.mean(1))
  return model
