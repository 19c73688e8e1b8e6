import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core import sharding
from genrec_jax.data import world
from genrec_jax.evals import baselines, scores, task
from genrec_jax.evals import evaluator as evaluator_lib
from genrec_jax.evals.held_out import derangement, prepare, score_others
from genrec_jax.sampling import Sampling
from tests import rounding

KEY = jax.random.key(0)


@pytest.fixture
def evaluator(batches, embed, fake_draw, catalogue):
  windows = prepare(batches(known=True), embed.targets, 4)
  return task.Evaluator(fake_draw, embed, windows, catalogue, 0.95, 0)


def _evaluate(evaluator, fidelity, **kwargs):
  return evaluator_lib.evaluate_model(
    functools.partial(evaluator.draw, fidelity),
    evaluator.embed,
    evaluator.windows,
    KEY,
    copy_threshold=evaluator.copy_threshold,
    **kwargs,
  )


def test_scores_are_per_user_and_better_for_a_better_model(evaluator):
  bad, good = _evaluate(evaluator, 0.0), _evaluate(evaluator, 1.0, keep=6)
  assert good.scores.keys() == scores.METRICS.keys()
  assert all(values.shape == (10,) for values in good.scores.values())
  assert good.samples.shape == (6, 4, 32, 32, 3)
  for name in ("preference_match", "future_clip_mean", "history_clip_mean"):
    assert good.scores[name].mean() > bad.scores[name].mean(), name


def test_the_truth_is_used_only_where_it_is_known(evaluator, batches, embed):
  windows = prepare(batches(known=False), embed.targets, 4)
  found = _evaluate(evaluator._replace(windows=windows), 1.0).scores
  assert scores.METRICS.keys() - found.keys() == {"preference_match"}


def test_users_do_not_depend_on_the_rows_they_share_a_batch_with(
  evaluator, batches, embed
):
  """The fill of a short batch must not reach any score."""

  def constant(prompt, key):
    del key
    return np.repeat(prompt.images[:, :1], 3, axis=1)

  windows = prepare(batches(known=True), embed.targets, 7)
  one, other = (
    evaluator_lib.evaluate_model(constant, embed, w, KEY, copy_threshold=0.95)
    for w in (evaluator.windows, windows)
  )
  for name, values in one.scores.items():
    # Cosines at the end of CLIP: products of 4 rows need not round as those of
    # 7. Its layers' sums are 2,000 numbers long in all.
    rounding.assert_close(
      values, other.scores[name], terms=2000, scale=1, err_msg=name
    )


def test_shuffled_histories_keep_their_targets(evaluator):
  """A model that repeats the newest item shows the other user's."""
  own = _evaluate(evaluator, 1.0)
  other = score_others(
    evaluator.windows, own.embeds, own.shown, derangement(10, seed=0), 0.95
  )
  assert own.scores["preference_match"].mean() > 0.6
  assert other["preference_match"].mean() < 0.4


def test_every_window_has_its_own_noise_and_every_row_the_same(evaluator):
  keys = []

  def draw(fidelity, prompt, key):
    keys.append(tuple(jax.random.key_data(key).tolist()))
    return evaluator.draw(fidelity, prompt, key)

  for fidelity in (0.0, 1.0):
    _evaluate(evaluator._replace(draw=draw), fidelity)
  assert len(evaluator.windows) == 3
  assert len(set(keys)) == 3
  assert keys[:3] == keys[3:]


def test_no_image_is_generated_for_shuffled_rows(evaluator, tmp_path):
  calls = []

  def draw(fidelity, prompt, key):
    calls.append(fidelity)
    return evaluator.draw(fidelity, prompt, key)

  rows = [("sft", 0.5), ("rl", 1.0)]
  task.finish(rows, evaluator._replace(draw=draw), str(tmp_path))
  assert calls == [0.5] * 3 + [1.0] * 3


def test_baselines(evaluator):
  found = baselines.score_all(
    evaluator.embed.images,
    evaluator.windows,
    evaluator.catalogue,
    num_samples=4,
    copy_threshold=0.95,
    seed=0,
    reconstruct=lambda images: 255 - images,
  )
  assert list(found) == list(baselines.NAMES)
  np.testing.assert_allclose(
    found["vq_ceiling"]["text_clip"], -1, atol=1e-5
  )  # the test's CLIP takes a negative to the other side
  means = {
    row: {name: values.mean() for name, values in metrics.items()}
    for row, metrics in found.items()
  }
  assert means["real_next_item"]["text_clip"] == pytest.approx(1)
  assert means["real_next_item"]["copy_rate"] == 0
  assert means["copy_last"]["copy_rate"] == 1
  assert means["copy_last"]["history_clip_max"] == pytest.approx(1)
  chance = np.mean([1 / 5, 1 / 8, 1 / 4])
  assert means["random_item"]["preference_match"] == pytest.approx(
    chance, abs=0.12
  )
  assert means["real_next_item"]["preference_match"] > 0.7
  for metrics in means.values():
    assert 0 < metrics["diversity"] < 2


def test_copy_last_is_undefined_without_a_history(evaluator):
  window = evaluator.windows[0]
  mask = window.batch.history_mask.copy()
  mask[1] = False
  window = window._replace(
    batch=window.batch.replace(history_mask=mask),
    targets=window.targets.replace(history_mask=mask),
  )
  found = baselines.score_all(
    evaluator.embed.images,
    [window],
    evaluator.catalogue,
    num_samples=4,
    copy_threshold=0.95,
    seed=0,
  )
  for name in ("text_clip", "preference_match", "copy_rate"):
    assert np.isnan(found["copy_last"][name][1]), name
    assert not np.isnan(found["copy_last"][name][0]), name
  assert not np.isnan(found["real_next_item"]["text_clip"]).any()


def test_held_out_gives_means_and_a_grid(evaluator):
  metrics, grid = task.held_out(
    functools.partial(evaluator.draw, 1.0),
    evaluator.embed,
    evaluator.windows[:2],
    KEY,
    copy_threshold=0.95,
    grid_users=3,
  )
  assert metrics.keys() == scores.METRICS.keys()
  assert all(isinstance(value, float) for value in metrics.values())
  assert grid.dtype == np.uint8
  assert grid.shape[0] == 3 * 32 + 2 * 2
  json.dumps(metrics, allow_nan=False)


def test_finish_leaves_a_summary_a_table_and_a_page(
  evaluator, tmp_path, capsys
):
  loaded = []

  def late():
    loaded.append("rl")
    return 1.0

  rows = [("base", 0.0), ("sft", 0.7), ("rl", late)]
  summary = task.finish(rows, evaluator, str(tmp_path), num_examples=3)
  assert loaded == ["rl"]
  assert json.loads((tmp_path / "summary.json").read_text()) == summary
  assert summary["users"] == 10
  assert list(summary["models"]) == [
    "base",
    "sft",
    "rl",
    "real_next_item",
    "random_item",
    "copy_last",
  ]
  assert list(summary["shuffled"]) == ["sft", "rl"]
  for row in (*summary["models"].values(), *summary["shuffled"].values()):
    assert row.keys() == scores.METRICS.keys()
    for cell in row.values():
      assert cell["low"] <= cell["mean"] <= cell["high"]
  match = {k: v["preference_match"] for k, v in summary["models"].items()}
  assert match["base"]["mean"] < match["rl"]["mean"]
  shuffled = summary["shuffled"]["rl"]["preference_match"]["mean"]
  assert shuffled < match["rl"]["mean"] - 0.2
  out = capsys.readouterr().out
  assert "real_next_item" in out
  assert "rl shuffled" in out
  page = (tmp_path / "report.html").read_text()
  assert page.count('<article class="user">') == 3
  assert "wants now" in page


def test_finish_without_the_truth(
  batches, embed, fake_draw, catalogue, tmp_path
):
  windows = prepare(batches(known=False), embed.targets, 4)
  parts = task.Evaluator(fake_draw, embed, windows, catalogue, 0.95, 0)
  summary = task.finish([("sft", 0.9)], parts, str(tmp_path))
  for row in summary["models"].values():
    assert "preference_match" not in row
    assert "copy_rate" in row
  page = (tmp_path / "report.html").read_text()
  assert "wants now" not in page
  assert world.title([0, 0, 0, 0, 0]) not in page


def test_finish_with_a_single_user_has_no_shuffled_rows(evaluator, tmp_path):
  lonely = evaluator._replace(windows=[evaluator.windows[0]._replace(count=1)])
  summary = task.finish([("sft", 0.9)], lonely, str(tmp_path))
  assert summary["users"] == 1
  assert summary["shuffled"] == {}


class _Clip:
  """Embeds by two fixed projections; counts how often it is traced."""

  def __init__(self):
    self.traces = []

  def embed_images(self, params, pixels):
    self.traces.append(pixels.shape)
    flat = pixels.reshape(*pixels.shape[:-3], -1)
    embeds = flat[..., : params["image"].shape[0]] @ params["image"]
    return embeds / jnp.linalg.norm(embeds, axis=-1, keepdims=True)

  def embed_texts(self, params, ids, mask):
    del mask
    embeds = params["text"][ids[:, 0]]
    return embeds / jnp.linalg.norm(embeds, axis=-1, keepdims=True)


@pytest.mark.parametrize("devices", [0, 4])
def test_one_compilation_serves_all_rows(
  devices, batches, catalogue, tmp_path, monkeypatch
):
  """Three models, shuffled histories, a short last batch, random items."""
  mesh = (
    sharding.make_mesh(devices=jax.devices()[:devices]) if devices else None
  )
  drawn = []

  def generate_images(model, params, prompt, key, sampling):
    del model
    drawn.append(prompt.ids.shape)
    # Without it no activation would be pinned to the batch's layout.
    assert jax.sharding.get_abstract_mesh().empty == (mesh is None)
    shape = (len(prompt.ids), sampling.num_samples, 32, 32, 3)
    # Beyond [0, 1], as a decoder's output may be.
    return 2 * jax.random.uniform(key, shape) - params["shift"]

  monkeypatch.setattr(
    evaluator_lib.sampling, "generate_images", generate_images
  )
  monkeypatch.setattr(
    evaluator_lib.sampling,
    "rollout_params",
    lambda model, params, layout: params,
  )
  clip = _Clip()
  keys = jax.random.split(KEY)
  clip_params = {
    "image": jax.random.normal(keys[0], (64, 8)),
    "text": jax.random.normal(keys[1], (10, 8)),
  }
  embed = evaluator_lib.make_embed(clip, clip_params, mesh=mesh)
  windows = prepare(batches(known=True), embed.targets, 4)
  parts = task.Evaluator(
    evaluator_lib.make_draw(None, Sampling(num_samples=2), mesh=mesh),
    embed,
    windows,
    catalogue,
    0.95,
    0,
  )
  rows = [
    (name, {"shift": jnp.float32(shift)})
    for name, shift in (("base", 0.0), ("sft", 0.5), ("rl", 1.0))
  ]
  summary = task.finish(rows, parts, str(tmp_path))
  assert drawn == [(4, 6)]
  assert clip.traces == [(4, 5 + 3, 32, 32, 3), (4, 2, 32, 32, 3)]
  assert summary["models"]["real_next_item"]["preference_match"]["mean"] > 0.6
  pixels = parts.draw(rows[2][1], windows[0].batch.prompt, KEY)
  assert pixels.dtype == np.uint8
  assert pixels.shape == (4, 2, 32, 32, 3)
  assert int(pixels.min()) == 0
  assert int(pixels.max()) >= 250


class _Coarse:
  """An image tokenizer of three codes an image: its mean colour, in tenths."""

  def encode_pixels(self, params, pixels):
    assert pixels.dtype == jnp.float32
    return jnp.round(params["levels"] * pixels.mean((-3, -2))).astype(jnp.int32)

  def decode_pixels(self, params, codes):
    colour = codes[..., None, None, :] / params["levels"]
    return jnp.broadcast_to(colour, (*codes.shape[:-1], 32, 32, 3))


def test_reconstruct_goes_through_the_models_own_tokenizer():
  images = np.full((2, 32, 32, 3), 255, np.uint8)
  images[1] = [0, 100, 200]  # .39 and .78: four and eight tenths
  reconstruct = evaluator_lib.make_reconstruct(_Coarse())
  found = np.asarray(reconstruct({"levels": 10.0}, images))
  assert found.dtype == np.uint8
  assert found.shape == images.shape
  assert (found[0] == 255).all()
  assert (found[1] == [0, 102, 204]).all()
  half = np.asarray(reconstruct({"levels": 1.0}, images))
  assert (half[1] == [0, 0, 255]).all()
