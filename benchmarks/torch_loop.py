"""The same work in transformers and torch, written as T2I-R1 and TRL write it.

Every sample is a row of its own: its prompt is repeated, in sampling and in
both passes over the samples. Where those loops differ, this one does what is
faster: features of the history's images are computed once a step, not per
sample and pass; rows go through the policy pass in small parts whose
activations fit, none being computed twice; no entropy is logged.

Letters as in `workload`; R rows, D width, E width of CLIP's embeddings, C codes
in the codebook, L latent channels.
"""

import copy
import re

import torch
import torch.nn.functional as F
import transformers

from benchmarks import workload
from tools.hf_inference import sampling as torch_sampling

# The smallest deviation that is divided by, `groups.FLOOR`, whose module would
# bring JAX into this process.
FLOOR = 0.01


def load(folder, device, dtype):
  """Returns the generator and CLIP, frozen.

  Args:
    folder: of `workload.save`, or the two themselves.
    device: of torch.
    dtype: of the generator.
  """
  transformers.utils.logging.disable_progress_bar()
  if isinstance(folder, tuple):
    generator, clip = folder
  else:
    generator = transformers.JanusForConditionalGeneration.from_pretrained(
      f"{folder}/generator", dtype=dtype
    )
    clip = transformers.CLIPModel.from_pretrained(f"{folder}/clip")
  # As on the other side: rounding decides between codes that are about as near.
  generator.model.vqmodel.float()
  for module in (generator, clip):
    # Frozen as a whole; `trainable` turns on what is trained.
    module.eval().requires_grad_(False).to(device)
  return generator, clip


def on_device(batch, device):
  """Returns a batch of `workload` as tensors."""
  return {name: torch.from_numpy(x).to(device) for name, x in batch.items()}


def trainable(model, patterns):
  """Returns the parameters that `patterns` match, their gradients turned on.

  Patterns are of the JAX side's paths, so that both train the same parts.
  """
  ours = {  # without the text's head, on which no code depends
    "model.language_model": "language/",
    "model.generation": "image_head/",
    "model.aligner": "aligner/",
  }
  chosen = []
  for name, parameter in model.named_parameters():
    part = [path for start, path in ours.items() if name.startswith(start)]
    if part and re.match(patterns, part[0]):
      chosen.append(parameter.requires_grad_(True))
  return chosen


def generate(model, batch, do_sample=True):
  """Returns codes [P, I] of an image sampled for each prompt of text."""
  # By transformers' own loop, whose guidance is for prompts of text alone.
  return model.generate(
    batch["ids"].long(),  # [P, T]
    attention_mask=batch["mask"].long(),
    generation_mode="image",
    do_sample=do_sample,
    guidance_scale=workload.GUIDANCE,
    pad_token_id=model.generation_config.pad_token_id,
  )


def image_features(model, batch):
  """Returns features [P N I, D] of a batch's images."""
  pixels = batch["images"].flatten(0, 1).permute(0, 3, 1, 2)  # [P N, 3, h, w]
  pixels = (pixels / 127.5 - 1).to(model.dtype)
  return model.model.get_image_features(pixels, return_dict=True).pooler_output


def encode(model, pixels):
  """Returns codes [P, I] of pixels [P, 3, h, w] in [-1, 1].

  Both sides normalised, as DeepSeek's tokenizer does; that of transformers
  compares them as they are.
  """
  tokenizer = model.model.vqmodel
  # [P, L, side, side], side^2 being I.
  latents = tokenizer.quant_conv(tokenizer.encoder(pixels))
  latents = F.normalize(latents.flatten(2).transpose(1, 2), dim=-1)  # [P, I, L]
  book = F.normalize(tokenizer.quantize.embedding.weight, dim=-1)  # [C, L]
  # Of unit vectors the largest product is the smallest distance.
  return (latents @ book.T).argmax(-1)


def embed(model, ids, features):
  """Returns embeddings [P, T, D] of prompts, conditional and unconditional."""
  table = model.get_input_embeddings()
  slots = (ids == model.config.image_token_id)[..., None]  # [P, T, 1]
  return (
    table(ids).masked_scatter(slots, features),
    table(torch_sampling.unconditional_ids(model, ids)),
  )


@torch.no_grad()
def sample_codes(model, conditional, unconditional):
  """Samples codes [R, I] after embeddings [R, T, D], guided."""
  language, codes = model.model.language_model, []
  # Both branches as rows of one pass, as its weights are read once then.
  step = torch.cat([conditional, unconditional])  # [2 R, T, D]
  cached = torch_sampling.new_cache(language)
  vision = model.config.vision_config
  for _ in range((vision.image_size // vision.patch_size) ** 2):
    out = language(inputs_embeds=step, use_cache=True, **cached)
    # [2 R, C]; float32 before guidance, which multiplies rounding errors.
    logits = model.model.generation_head(out.last_hidden_state[:, -1]).float()
    probs = guide(logits).softmax(-1)  # [R, C]
    codes.append(torch.multinomial(probs, 1))  # [R, 1]
    step = model.prepare_embeddings_for_image_generation(codes[-1])
    step = step.repeat(2, 1, 1)  # [2 R, 1, D]: a code continues both branches
  return torch.cat(codes, 1)  # [R, I]


def guide(logits):
  """Returns guided logits [R, ..., C] of both branches' [2 R, ..., C]."""
  conditional, unconditional = logits.chunk(2)
  return unconditional + workload.GUIDANCE * (conditional - unconditional)


def score(model, branches, codes):
  """Returns log-probabilities [R, I] of codes [R, I].

  Args:
    model: the generator.
    branches: embeddings [R, T, D]; a second one's logits guide.
    codes: [R, I].
  """
  # The last code is predicted, and never read: [R, I - 1, D].
  answer = model.prepare_embeddings_for_image_generation(codes[:, :-1])
  rows = [torch.cat([embeds, answer], 1) for embeds in branches]
  out = model.model.language_model(
    inputs_embeds=torch.cat(rows), use_cache=False
  )
  # The head on image positions alone: on a prompt's it would be wasted.
  hidden = out.last_hidden_state[:, -codes.shape[1] :]  # [R or 2 R, I, D]
  logits = model.model.generation_head(hidden).float()  # [R or 2 R, I, C]
  if len(branches) == 2:
    logits = guide(logits)
  chosen = logits.gather(-1, codes[..., None])[..., 0]  # [R, I]
  return chosen - logits.logsumexp(-1)


@torch.no_grad()
def rewards(clip, batch, pixels):
  """Returns the four raw rewards [R] of one prompt's pixels [R, 3, h, w]."""
  config = clip.config.vision_config
  # CLIP's published constants.
  mean = pixels.new_tensor([0.48145466, 0.4578275, 0.40821073])
  std = pixels.new_tensor([0.26862954, 0.26130258, 0.27577711])

  def see(images):
    # On the device, as on the other side: samples never go to the host.
    size = (config.image_size,) * 2
    images = F.interpolate(
      images, size, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    images = (images - mean[:, None, None]) / std[:, None, None]
    return F.normalize(clip.get_image_features(images).pooler_output, dim=-1)

  # [N + F, h, w, 3], of the one prompt.
  real = torch.cat([batch["images"][0], batch["future"][0]])
  real = see(real.permute(0, 3, 1, 2) / 255)  # [N + F, E]
  text = clip.get_text_features(
    batch["title_ids"].long(), batch["title_mask"].long()
  ).pooler_output  # [1, E]
  samples_seen = see(pixels)  # [R, E]
  # Cosines [R, N] and [R, F], as all rows are unit vectors.
  history, future = (samples_seen @ real.T).split(
    [batch["images"].shape[1], batch["future"].shape[1]], -1
  )
  nearest = history.max(-1).values  # [R]
  return {
    "text": (samples_seen @ F.normalize(text, dim=-1).T)[:, 0],
    "history": history.mean(-1),
    "future": future.mean(-1),
    "copy": (workload.COPY_THRESHOLD - nearest).clamp(max=0),
  }


def centred(values):
  """Subtracts the mean of values [R].

  Equal within rounding counts as equal, as in `groups.zero_spread`.
  """
  spread = values.max() - values.min()
  if spread <= 2e-6 * values.abs().max().clamp(min=1):
    return torch.zeros_like(values)
  return values - values.mean()


def deviation(values, floor=FLOOR):
  """Returns the standard deviation of values [R], at least `floor`."""
  return centred(values).square().mean().sqrt().clamp(min=floor)


def advantages(raw):
  """Returns [R] of raw rewards [R], as `advantages.combine` for one prompt."""
  weights = workload.WEIGHTS
  units = {name: deviation(raw[name]) for name in weights}  # [] each
  # [R]; the floor of its deviation is in its own unit.
  total = sum(w * raw[name] / units[name] for name, w in weights.items())
  floor = FLOOR * max(weights.values()) / max(units.values())
  return centred(total) / deviation(total, floor)


class AdamW:
  """The optimizer of both tasks; it keeps narrower parameters in float32."""

  def __init__(self, params):
    """Takes the parameters that are to be trained."""
    # As on the other side: a step of 1e-6 is below the rounding of bfloat16. A
    # float32 parameter gives the same tensor, no second copy.
    self.pairs = [(param, param.detach().float()) for param in params]
    self.optimizer = torch.optim.AdamW(
      [master for _, master in self.pairs],
      workload.LEARNING_RATE,
      workload.BETAS,
      weight_decay=0.0,
    )

  @torch.no_grad()
  def step(self):
    """Takes a step with all gradients; returns their norm."""
    for param, master in self.pairs:
      if param.grad is not None:  # no task reads all parts of a model
        master.grad, param.grad = param.grad.float(), None
    masters = [master for _, master in self.pairs]
    # One norm over all, as `optimizers.adamw` clips.
    norm = torch.nn.utils.clip_grad_norm_(masters, workload.GRAD_NORM)
    self.optimizer.step()
    self.optimizer.zero_grad()
    for param, master in self.pairs:
      if param.dtype != master.dtype:
        param.copy_(master)
    return norm.item()


class RL:
  """A GRPO step on one prompt of images."""

  def __init__(self, folder, batch, *, guided, rows, device, dtype):
    """Loads the models.

    Args:
      folder: of `workload.save`.
      batch: of `workload.history_batch`, one prompt.
      guided: score the distribution sampled from, not the conditional one.
      rows: samples of the policy pass at a time.
      device: of torch.
      dtype: of the generator.
    """
    self.model, self.clip = load(folder, device, dtype)
    parts = self.model.model.vision_model, self.model.model.vqmodel
    # In memory once: the reference differs only in what is trained.
    shared = {id(part): part for part in parts}
    self.reference = copy.deepcopy(self.model, shared)
    self.batch = on_device(batch, device)
    self.guided, self.rows, self.sample = guided, rows, sample_codes
    self.optimizer = AdamW(trainable(self.model, workload.GENERATES))

  def step(self, codes=None, samples=workload.SAMPLES):
    """Takes a step.

    Args:
      codes: [G, I], those to learn from; None samples them.
      samples: G.

    Returns:
      Metrics as those of `train.rl.train_step`.
    """
    model, ids = self.model, self.batch["ids"].long()
    with torch.no_grad():
      features = image_features(model, self.batch)  # [N I, D]
      if codes is None:
        both = embed(model, ids, features)
        codes = self.sample(
          model, *(x.repeat_interleave(samples, 0) for x in both)
        )
      # [G, 3, h, w] in [-1, 1], and beyond.
      pixels = model.decode_image_tokens(codes).permute(0, 3, 1, 2)
      raw = rewards(self.clip, self.batch, (pixels / 2 + 0.5).clamp(0, 1))

    def logprobs(model, codes):
      # Anew for each part, as its backward pass frees the graph.
      both = embed(model, ids, features)
      rows = [x.expand(len(codes), -1, -1) for x in both]
      return score(model, rows if self.guided else rows[:1], codes)

    loss = 0.0
    parts = codes.split(self.rows)
    with torch.no_grad():
      references = [logprobs(self.reference, part) for part in parts]
    for part, weights, reference in zip(
      parts, advantages(raw).split(self.rows), references, strict=True
    ):
      found = logprobs(model, part)
      # Of the mean over all codes, so that the parts' gradients add up to its.
      part_loss = grpo(found, reference, weights).sum() / codes.numel()
      part_loss.backward()
      loss += part_loss.item()
    reward = sum(w * raw[k].mean() for k, w in workload.WEIGHTS.items())
    return {
      "loss": loss,
      "grad_norm": self.optimizer.step(),
      "reward": reward.item(),
    }


def grpo(logprobs, reference, advantages):
  """Returns the loss [R, I] of each code, on policy."""
  # 1 in value: samples are of this policy. What counts is its gradient.
  ratio = (logprobs - logprobs.detach()).exp()
  low, high = workload.CLIP
  clipped = ratio.clamp(1 - low, 1 + high)
  surrogate = torch.minimum(
    ratio * advantages[:, None], clipped * advantages[:, None]
  )
  difference = reference - logprobs
  kl = difference.exp() - 1 - difference  # k3, [R, I]
  return workload.KL_WEIGHT * kl - surrogate


class SFT:
  """A supervised step."""

  def __init__(self, folder, batch, *, rows, device, dtype):
    """Loads the models; arguments as those of `RL`."""
    self.model, _ = load(folder, device, dtype)
    self.batch, self.rows = on_device(batch, device), rows
    patterns = f"{workload.GENERATES}|{workload.READS}"
    self.optimizer = AdamW(trainable(self.model, patterns))

  def step(self):
    """Takes a step; returns metrics as those of `train.sft.train_step`."""
    model, loss = self.model, 0.0
    with torch.no_grad():
      # The next item's image, [P, 3, h, w].
      pixels = self.batch["future"][:, 0].permute(0, 3, 1, 2) / 127.5 - 1
      codes = encode(model, pixels)  # [P, I]
    for start in range(0, len(codes), self.rows):
      rows = slice(start, start + self.rows)
      part = {name: x[rows] for name, x in self.batch.items()}
      # With a gradient here, for the aligner.
      features = image_features(model, part)
      conditional, _ = embed(model, part["ids"].long(), features)
      logprobs = score(model, [conditional], codes[rows])
      part_loss = -logprobs.sum() / codes.numel()
      part_loss.backward()
      loss += part_loss.item()
    return {"loss": loss, "grad_norm": self.optimizer.step()}
