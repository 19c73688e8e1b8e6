"""The work of `torch_loop`, by this project.

Letters as in `workload`.
"""

import functools
import re

import jax
import jax.numpy as jnp

from benchmarks import workload
from genrec_jax import rewards, sampling
from genrec_jax.core import tree
from genrec_jax.core.types import Batch, Prompt, TrainState
from genrec_jax.hf import load
from genrec_jax.objectives import Objective
from genrec_jax.train import optimizers, rl, sft, trainable
from genrec_jax.train.rl_options import RLOptions

SEED = 0
# Neither top-k nor top-p, which torch's loop has none of.
SAMPLE = {"guidance": workload.GUIDANCE}


def build(task, folder, size, *, dtype, remat):
  """Returns a side that has a `step`.

  Args:
    task: one of `workload.TASKS`.
    folder: of `workload.save`.
    size: of its models.
    dtype: that computes.
    remat: of training; see `nn.layers.scan_stack`.
  """
  batch = workload.batch_of(task, size)
  if task.startswith("sample_"):
    return Sample(folder, batch, dtype=dtype)
  options = {"dtype": dtype, "remat": remat}
  if task == "sft":
    return SFT(folder, batch, **options)
  return RL(folder, batch, guided=task == "rl_guided", **options)


def batch_of(arrays) -> Batch:
  """Returns a batch of `workload` on the device."""
  arrays = dict(arrays)
  prompt = Prompt(**{k: arrays.pop(k) for k in ("ids", "mask", "images")})
  # Squares: padded for the model and cropped for CLIP they are one array, which
  # the device then holds once.
  return jax.device_put(Batch(prompt=prompt, history=prompt.images, **arrays))


def split(model, params, patterns):
  """Returns what is trained, and the rest."""
  flat = tree.flatten(params)
  chosen = {
    path
    for path in flat
    if re.match(patterns, path)
    and not re.fullmatch(model.without_gradient(), path)
  }
  return (
    tree.unflatten({path: flat[path] for path in chosen}),
    tree.unflatten({path: flat[path] for path in flat.keys() - chosen}),
  )


def optimizer():
  """Returns the optimizer of both tasks."""
  # No schedule and no decay: torch's side has a constant rate.
  b1, b2 = workload.BETAS
  return optimizers.adamw(
    lr=workload.LEARNING_RATE,
    b1=b1,
    b2=b2,
    weight_decay=0.0,
    warmup_steps=0,
    decay_steps=0,
    grad_norm=workload.GRAD_NORM,
  )


class Sample:
  """Sampling of one image for each prompt."""

  def __init__(self, folder, batch, *, dtype, greedy=False):
    """Loads the model; arguments as those of `RL`."""
    # Sampling has no backward pass, so there is nothing to rematerialise.
    self.model, self.params = _load(folder, dtype, "none")
    self.prompt, self.calls = batch_of(batch).prompt, 0
    self.sample = sample_step(self.model, greedy=greedy)

  def compile(self):
    """Returns the compiled sampling, which `step` will run."""
    # Replaces the jitted function, which would compile once more when called:
    # its cache knows nothing of what is compiled here.
    inputs = self.params, self.prompt, jax.random.key(0)
    self.sample = self.sample.lower(*inputs).compile()
    return self.sample

  def step(self):
    """Returns codes [P, 1, I]."""
    self.calls += 1
    # Other codes each time, as torch samples them: no run is special.
    key = jax.random.key(self.calls)
    # Waits, as JAX returns before it has computed.
    return jax.block_until_ready(
      self.sample(self.params, self.prompt, key).codes
    )


def sample_step(model, **options):
  """Returns jitted sampling, see `sampling.sample_images`."""
  return jax.jit(
    functools.partial(
      sampling.sample_images,
      model,
      sampling=sampling.Sampling(**options, **SAMPLE),
    )
  )


class _Trained:
  """A state, the inputs of its step, and the jitted step as `run`."""

  def compile(self):
    """Returns the compiled step, which `step` will run."""
    self.run = self.run.lower(self.state, self.frozen, self.batch).compile()
    return self.run

  def step(self):
    """Takes a step; returns its metrics."""
    self.state, metrics = self.run(self.state, self.frozen, self.batch)
    return _settled(self.state, metrics)


class RL(_Trained):
  """A GRPO step."""

  def __init__(
    self,
    folder,
    batch,
    *,
    guided,
    dtype,
    remat,
    samples=workload.SAMPLES,
  ):
    """Loads the models.

    Args:
      folder: of `workload.save`.
      batch: of `workload.history_batch`.
      guided: score the distribution sampled from, not the conditional one.
      dtype: that computes.
      remat: see `nn.layers.scan_stack`.
      samples: G.
    """
    self.model, params = _load(folder, dtype, remat)
    # float32, on both sides: bfloat16 rounds cosines by up to 0.004.
    clip, clip_params, _ = load.load_clip(f"{folder}/clip", dtype="float32")
    self.batch = batch_of(batch)
    state, self.frozen = rl_inputs(self.model, params, clip_params)
    self.state = _placed(state)
    self.run = rl_step(self.model, clip, guided=guided, samples=samples)


def rl_inputs(model, params, clip_params):
  """Returns the state and the frozen parameters of `rl_step`."""
  # Split, as only what is trained has gradients and moments.
  trained, rest = split(model, params, workload.GENERATES)
  # Copied, as the step is donated the arrays of its state.
  copy = jax.tree.map(jnp.copy, trained)
  frozen = {"generator_rest": rest, "clip": clip_params}
  return _state(trained), frozen | {
    "reference": trainable.cast_frozen(model, copy)
  }


def rl_step(model, clip, *, guided, samples=workload.SAMPLES):
  """Returns the jitted step; see `RL`."""
  low, high = workload.CLIP
  step = functools.partial(
    rl.train_step,
    model=model,
    clip=clip,
    optimizer=optimizer(),
    to_rollout_layout=lambda params: params,  # one device: nothing to gather
    options=RLOptions(
      seed=SEED,
      microbatches=1,  # one prompt
      sample=sampling.Sampling(num_samples=samples, **SAMPLE),
      rewards=_rewards(),
      objective=Objective(
        ratio="token",
        clip_low=low,
        clip_high=high,
        kl="k3",  # as `torch_loop.grpo`, written out there
        kl_weight=workload.KL_WEIGHT,
        aggregation="token",
      ),
      advantage="grpo",
      normalise="group",
      scoring="guided" if guided else "conditional",
      stop_unconditional_gradient=False,
      inner_epochs=1,  # on policy: the ratio is 1, on both sides
      sampler_weight_cap=0.0,
      kl_of="scored",
    ),
  )
  # Donated as in training: parameters and moments are held once, not twice.
  return jax.jit(step, donate_argnums=0)


def _rewards():
  options = {
    "text": {},
    "history": {"pool": "mean", "recency_decay": 1.0},
    "future": {"pool": "mean"},
    "copy": {"threshold": workload.COPY_THRESHOLD},
  }
  return rewards.from_options(
    {
      name: {"weight": weight} | options[name]
      for name, weight in workload.WEIGHTS.items()
    }
  )


class SFT(_Trained):
  """A supervised step."""

  def __init__(self, folder, batch, *, dtype, remat):
    """Loads the model; arguments as those of `RL`."""
    self.model, params = _load(folder, dtype, remat)
    self.batch = batch_of(batch)
    state, self.frozen = sft_inputs(self.model, params)
    self.state = _placed(state)
    self.run = sft_step(self.model)


def sft_inputs(model, params):
  """Returns the state and the frozen parameters of `sft_step`."""
  patterns = f"{workload.GENERATES}|{workload.READS}"
  trained, rest = split(model, params, patterns)
  return _state(trained), {"generator_rest": rest}


def sft_step(model):
  """Returns the jitted step."""
  step = functools.partial(
    sft.train_step,
    model=model,
    optimizer=optimizer(),
    # No dropout of conditions: torch's loop trains on whole prompts.
    options=sft.SFTOptions(seed=SEED, microbatches=1, condition_dropout=0.0),
  )
  return jax.jit(step, donate_argnums=0)


def _load(folder, dtype, remat):
  """Returns the generator and its parameters, float32 whatever computes."""
  loaded = load.load_generator(f"{folder}/generator", dtype=dtype, remat=remat)
  return loaded.model, loaded.params


def _state(trained):
  """Returns the first state."""
  return TrainState(jnp.int32(0), trained, optimizer().init(trained))


def _placed(state):
  """Puts a state where a step leaves it: else the step compiles twice."""
  return jax.device_put(state, jax.devices()[0])


def _settled(state, metrics):
  """Waits for a step; returns its metrics as numbers."""
  # All results of the step, whichever it computes last.
  jax.block_until_ready(state)
  return {name: float(value) for name, value in metrics.items()}
