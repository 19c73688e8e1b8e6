"""A small evaluation set, and a generator and a panel that need no model."""

import importlib.util
import json
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from genrec_jax import testing
from genrec_jax.core.types import Batch, Prompt
from genrec_jax.data import world, world_users
from genrec_jax.evals.evaluator import Evaluator
from genrec_jax.evals.held_out import prepare
from genrec_jax.evals.panel import Panel
from genrec_jax.hf import load
from genrec_jax.models.janus import RULES
from genrec_jax.targets import Targets

ROOT = pathlib.Path(__file__).parents[2]
USERS, SIZE, HISTORY, FUTURE, SAMPLES, WIDTH = 10, 4, 5, 3, 4, 16


def _batches(known):
  """Yields (batch, info) of 10 users in batches of 4, 4 and 2."""
  events = world_users.simulate(USERS, HISTORY + FUTURE, seed=3)
  attrs = world.attributes(events.items)
  images = world.render(attrs)
  for start in range(0, USERS, SIZE):
    rows = slice(start, min(start + SIZE, USERS))
    count = rows.stop - start
    history_mask = np.ones((count, HISTORY), bool)
    history_mask[0, 3:] = False
    batch = Batch(
      prompt=Prompt(
        ids=np.arange(start, rows.stop)[:, None].repeat(6, 1).astype(np.int32),
        mask=np.ones((count, 6), bool),
        images=images[rows, :HISTORY],
      ),
      history=images[rows, :HISTORY],
      history_mask=history_mask,
      future=images[rows, HISTORY:],
      future_mask=np.ones((count, FUTURE), bool),
      title_ids=np.arange(start, rows.stop)[:, None].astype(np.int32),
      title_mask=np.ones((count, 1), bool),
    )
    items = events.items[rows]  # [count, HISTORY + FUTURE]
    info = {
      "user": [f"u{i}" for i in range(start, rows.stop)],
      "target_row": items[:, HISTORY],
      "history_rows": [
        row[:HISTORY][real]
        for row, real in zip(items, history_mask, strict=True)
      ],
      "seen_rows": list(items[:, :HISTORY]),
    }
    if known:
      info["wants"] = events.wants[rows, HISTORY]
    yield batch, info


ENCODERS = ("clip", "eye")  # the reward's and a judge
THRESHOLDS = dict.fromkeys(ENCODERS, 0.95)


class _Projections(Panel):
  """Embeds images by fixed random projections to unit vectors.

  CLIP reads titles, of which the real next image stands for one; the judge has
  no text tower.
  """

  def __init__(self):
    super().__init__((), mesh=None)

  judges = ENCODERS[1:]

  def embed_images(self, images):
    flat = np.asarray(images).reshape(*images.shape[:-3], -1) / 255 - 0.5
    found = {}
    for seed, name in enumerate(ENCODERS):
      matrix = np.random.default_rng(seed).normal(size=(32 * 32 * 3, WIDTH))
      embeds = flat @ matrix
      embeds /= np.linalg.norm(embeds, axis=-1, keepdims=True)
      found[name] = embeds.astype(np.float32)
    return found

  def embed_targets(self, batch):
    history, future = map(self.embed_images, (batch.history, batch.future))
    text = future["clip"][:, 0]
    return {
      name: Targets(
        text=text if name == "clip" else None,
        history=history[name],
        history_mask=batch.history_mask,
        future=future[name],
        future_mask=batch.future_mask,
      )
      for name in ENCODERS
    }

  def embed_titles(self, titles):
    return {}


def generate(fidelity, prompt, key):
  """Generates items like the newest in the history; at random for the rest."""
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  shape = (len(prompt.ids), SAMPLES)
  attrs = world.attributes(rng.integers(world.NUM_ITEMS, size=shape))
  last = world.read(prompt.images[:, -1])[:, None].repeat(SAMPLES, 1)
  keep = rng.random(attrs.shape) < fidelity
  keep[..., 3:] = False  # background and size vary
  images = world.render(np.where(keep, last, attrs))
  noise = rng.normal(0, 12, size=images.shape)
  return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def batches():
  return _batches


@pytest.fixture
def panel():
  return _Projections()


@pytest.fixture
def fake_generate():
  return generate


@pytest.fixture
def catalogue():
  return world.render(world.attributes(np.arange(world.NUM_ITEMS)))


VOCABULARY = len(testing.word_tokenizer())


def _janus(width=16):
  return testing.tiny_janus(image_size=32, vocab_size=VOCABULARY, width=width)


@pytest.fixture
def evaluate_config():
  """Returns a function that makes the debug config of an evaluation."""
  return _config


def _config(**checkpoint):
  path = ROOT / "configs" / "evaluate.py"
  spec = importlib.util.spec_from_file_location("evaluate_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("debug")
  config.model.update(checkpoint)
  return config


@pytest.fixture
def workdir_of():
  """Returns a function that makes a folder with a run's config.json."""
  return _workdir


def _workdir(path, **config):
  path.mkdir()
  (path / "config.json").write_text(json.dumps(config))
  return str(path)


@pytest.fixture
def checkpoints(monkeypatch):
  """Replaces loading.

  Returns {path: width}, the paths of another vocabulary, and what was read.
  """
  sizes, others, loaded = {}, [], []

  def open_generator(path, *, dtype, image_size=0, read_size=0):
    assert dtype == "float32"
    # A checkpoint's own: no test of this room changes them.
    assert image_size == read_size == 0
    model = _janus(sizes.get(str(path), 16))
    processor = testing.TinyProcessor()
    if path in others:
      processor.tokenizer.add_tokens(["word"])

    def read(shardings):
      loaded.append(str(path))
      return jax.device_put(
        testing.random_params(model, len(loaded), 0.1), shardings
      )

    return SimpleNamespace(
      model=model,
      processor=processor,
      source=path,
      rules=RULES,
      shapes=jax.eval_shape(model.init, jax.random.key(0)),
      read=read,
    )

  def open_clip(path, *, dtype):
    del path, dtype
    clip = testing.tiny_clip(
      image_size=32, vocab_size=VOCABULARY, max_position_embeddings=12
    )
    params = testing.random_params(clip, 9, 0.1)
    return SimpleNamespace(
      model=clip,
      tokenizer=testing.word_tokenizer(12),
      shapes=params,
      read=lambda shardings: jax.device_put(params, shardings),
    )

  monkeypatch.setattr(load, "open_generator", open_generator)
  monkeypatch.setattr(load, "open_clip", open_clip)
  return sizes, others, loaded


@pytest.fixture
def evaluator(batches, panel, fake_generate, catalogue):
  return Evaluator(
    fake_generate,
    panel,
    prepare(batches(known=True), panel, 4),
    catalogue,
    num_samples=4,
    seed=0,
    copy_thresholds=THRESHOLDS,
  )
