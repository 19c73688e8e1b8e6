"""Torch's decode loop at its fastest: a static cache, a CUDA graph a code.

The loops of `torch_loop` are those that people run: they launch some hundred
kernels a layer from Python, and copy the cache at each code. Here all buffers
are of fixed size, the modules are those of transformers, and on a GPU a code is
one launch. On other devices the same function is called code by code.

Letters as in `torch_loop`; S tokens of the cache, N heads, H head width.
"""

import torch
import torch.nn.functional as F

from benchmarks import torch_loop


class Decoder:
  """Samples codes after prompts; the buffers stay for the next call."""

  def __init__(self, model, rows, tokens, guide=torch_loop.guide):
    """Makes the buffers.

    Args:
      model: the generator.
      rows: 2 R, those of both branches.
      tokens: T of the prompts.
      guide: maps logits [2 R, C] to those [R, C] that are sampled from.
    """
    self.model, self.guide, self.tokens = model, guide, tokens
    language, vision = model.model.language_model, model.config.vision_config
    self.layers, self.norm = language.layers, language.norm
    config = language.config
    self.heads = config.num_attention_heads
    self.width = getattr(config, "head_dim", None) or (
      config.hidden_size // self.heads
    )  # H
    self.codes = (vision.image_size // vision.patch_size) ** 2  # I
    size = tokens + self.codes  # S
    options = {"dtype": model.dtype, "device": model.device}
    shape = (rows, config.num_key_value_heads, size, self.width)
    self.cache = [
      (torch.zeros(shape, **options), torch.zeros(shape, **options))
      for _ in self.layers
    ]
    places = torch.arange(size, device=model.device)
    probe = torch.zeros((1, 1, config.hidden_size), **options)
    # Cosines and sines [1, S, H] of all places, once.
    self.rope = language.rotary_emb(probe, places[None])
    self.places = places
    self.last = torch.zeros(
      (rows // 2, 1), dtype=torch.long, device=places.device
    )
    self.place = torch.zeros(1, dtype=torch.long, device=places.device)
    self.out = torch.zeros(
      (rows // 2, self.codes), dtype=torch.long, device=places.device
    )
    self.graph = None

  @torch.no_grad()
  def sample(self, embeds, greedy=False):
    """Samples codes [R, I] after embeddings [2 R, T, D]."""
    self.greedy = greedy
    hidden = self.prefill(embeds)
    self._take(hidden, 0)
    self.place.fill_(self.tokens)
    if self.graph is None and embeds.is_cuda:
      self._capture()
      self._take(hidden, 0)
      self.place.fill_(self.tokens)
    for _ in range(self.codes - 1):
      if self.graph is None:
        self._step()
      else:
        self.graph.replay()
    return self.out

  def prefill(self, embeds):
    """Caches prompts [2 R, T, D]; returns their last states [2 R, D]."""
    return self._run(embeds, self.places[: self.tokens])

  def _step(self):
    """Appends the last code, and samples the next; all in place."""
    embeds = self.model.prepare_embeddings_for_image_generation(self.last)
    hidden = self._run(embeds.repeat(2, 1, 1), self.place)
    self._take(hidden, self.place - self.tokens + 1)
    self.place += 1

  def _take(self, hidden, number):
    """Samples code `number` from states [2 R, D]."""
    logits = self.guide(self.model.model.generation_head(hidden).float())
    if not self.greedy:  # exponential races: `multinomial` waits for the GPU
      probs = logits.softmax(-1)
      logits = probs / torch.empty_like(probs).exponential_(1)
    self.last.copy_(logits.argmax(-1, keepdim=True))
    index = torch.as_tensor(number, device=hidden.device).reshape(1)
    self.out.index_copy_(1, index, self.last)

  def _run(self, x, places):
    """Runs the layers at places [t]; returns the last states [2 R, D]."""
    cos, sin = (table[:, places, None] for table in self.rope)  # [1, t, 1, H]
    prompt = len(places) > 1
    seen = None if prompt else (self.places <= places)[None, None, None]
    for layer, (keys, values) in zip(self.layers, self.cache, strict=True):
      attention, h = layer.self_attn, layer.input_layernorm(x)
      q, k, v = (
        project(h).unflatten(-1, (-1, self.width))  # [2 R, t, N, H]
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
      )
      q, k = (rotate(y, cos, sin).transpose(1, 2) for y in (q, k))
      v = v.transpose(1, 2)
      keys.index_copy_(2, places, k)
      values.index_copy_(2, places, v)
      h = F.scaled_dot_product_attention(
        q,
        k if prompt else keys,
        v if prompt else values,
        attn_mask=seen,
        is_causal=prompt,
        enable_gqa=self.heads != k.shape[1],
      )
      x = x + attention.o_proj(h.transpose(1, 2).flatten(2))
      x = x + layer.mlp(layer.post_attention_layernorm(x))
    return self.norm(x[:, -1])

  def _capture(self):
    """Records one step; what it has written is written again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
      for _ in range(3):  # libraries choose their kernels
        self._step()
    torch.cuda.current_stream().wait_stream(stream)
    self.graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(self.graph):
      self._step()


def rotate(x, cos, sin):
  """Rotates [..., H] by angles; as transformers."""
  low, high = x.chunk(2, -1)
  return x * cos + torch.cat([-high, low], -1) * sin
