"""Both sides of the comparison with torch do the same work."""

import pathlib

import jax
import numpy as np
import pytest
import torch

from benchmarks import (
  breakdown,
  counts,
  growth,
  jax_loop,
  limits,
  roofline,
  sides,
  torch_decode,
  torch_loop,
  two_trees,
  versus_torch,
  workload,
)
from genrec_jax import sampling
from genrec_jax.analysis import hlo, hlo_cost, tracing
from genrec_jax.core.errors import UserError
from genrec_jax.sampling import Sampling

CPU = {"device": "cpu", "dtype": torch.float32}
SAMPLES = 4
SIDES = ("JAX", "torch")


@pytest.fixture(scope="module")
def size():
  """Returns a size of four codes, small in everything."""
  return workload.small(
    width=64,
    mlp_width=96,
    depth=2,
    head_width=32,
    vision=64,
    vision_depth=1,
    clip=64,
    codes=4,
    base_channels=32,
    num_embeddings=64,
  )


@pytest.fixture(scope="module")
def folder(size, tmp_path_factory):
  folder = tmp_path_factory.mktemp("models")
  workload.save(str(folder), size)
  return folder


def test_greedy_codes_are_the_same(folder, size):
  batch = workload.text_batch(size, 2)
  ours = jax_loop.Sample(folder, batch, dtype="float32", greedy=True).step()
  model, _ = torch_loop.load(folder, **CPU)
  held = torch_loop.on_device(batch, "cpu")
  theirs = torch_loop.generate(model, held, do_sample=False)
  np.testing.assert_array_equal(ours[:, 0], theirs)
  assert len(np.unique(theirs)) > 2


@pytest.mark.parametrize(
  "guided", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_rl_steps_are_the_same(folder, size, guided):
  batch = workload.history_batch(size, 1)
  ours = jax_loop.RL(
    folder,
    batch,
    guided=guided,
    dtype="float32",
    remat="none",
    samples=SAMPLES,
  )
  codes = next_codes(ours)
  theirs = torch_loop.RL(folder, batch, guided=guided, rows=2, **CPU)
  for _ in range(2):  # the second time, the policy is not the reference
    found = ours.step()
    expected = theirs.step(torch.from_numpy(codes).long(), SAMPLES)
    for name, value in expected.items():
      np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5)
    codes = next_codes(ours)
  assert expected["grad_norm"] > 0.1


def next_codes(side):
  """Returns the codes [G, I] that the next step will sample."""
  params = jax_loop.tree.merge(side.state.params, side.frozen["generator_rest"])
  key = jax.random.fold_in(jax.random.key(jax_loop.SEED), side.state.step)
  rollout = jax.jit(
    lambda params, key: sampling.sample_images(
      side.model,
      params,
      side.batch.prompt,
      key,
      Sampling(num_samples=SAMPLES, **jax_loop.SAMPLE),
    )
  )(params, key)
  return np.array(rollout.codes[0])


def test_supervised_steps_are_the_same(folder, size):
  batch = workload.history_batch(size, 3)
  ours = jax_loop.SFT(folder, batch, dtype="float32", remat="none")
  theirs = torch_loop.SFT(folder, batch, rows=2, **CPU)
  for _ in range(2):
    found, expected = ours.step(), theirs.step()
    for name, value in expected.items():
      np.testing.assert_allclose(found[name], value, rtol=1e-3)
  assert ours.run._cache_size() == 1


def test_torch_trains_narrow_weights_in_float32():
  narrow = torch.full((4,), 1.0, dtype=torch.bfloat16, requires_grad=True)
  wide = torch.full((4,), 1.0, requires_grad=True)
  optimizer = torch_loop.AdamW([narrow, wide])
  (_, master), (_, same) = optimizer.pairs
  for _ in range(2):
    (2 * narrow.sum() + 2 * wide.sum()).backward()
    assert optimizer.step() == pytest.approx(32**0.5)
  # bfloat16 would not have moved.
  np.testing.assert_allclose(master, 1 - 2e-6, rtol=1e-7)
  np.testing.assert_array_equal(master, wide.detach())
  assert same.data_ptr() == wide.data_ptr()
  assert narrow.dtype == torch.bfloat16


def test_torch_samples_for_its_prompts(folder, size):
  model, _ = torch_loop.load(folder, **CPU)
  batch = torch_loop.on_device(workload.history_batch(size, 1), "cpu")
  with torch.no_grad():
    features = torch_loop.image_features(model, batch)
    both = torch_loop.embed(model, batch["ids"].long(), features)
    codes = torch_loop.sample_codes(model, *(x.repeat(3, 1, 1) for x in both))
  assert codes.shape == (3, size.codes)


def test_torch_s_static_cache_samples_the_same_codes(folder, size, monkeypatch):
  model, _ = torch_loop.load(folder, **CPU)
  batch = torch_loop.on_device(workload.history_batch(size, 1), "cpu")
  with torch.no_grad():
    features = torch_loop.image_features(model, batch)
    both = torch_loop.embed(model, batch["ids"].long(), features)
    both = [x.repeat(3, 1, 1) for x in both]
  monkeypatch.setattr(
    torch, "multinomial", lambda probs, _: probs.argmax(-1, keepdim=True)
  )
  expected = torch_loop.sample_codes(model, *both)
  rows = torch.cat(both)
  decoder = torch_decode.Decoder(model, *rows.shape[:2])
  assert torch.equal(decoder.sample(rows, greedy=True), expected)
  # And again, in the buffers of the first time.
  assert torch.equal(decoder.sample(rows, greedy=True), expected)


def test_sides_take_turns_in_processes_of_their_own(folder, size):
  found = versus_torch.measure(
    "sft",
    size,
    str(folder),
    rows=1,
    remat="none",
    device="cpu",
    threads=1,
    repeats=2,
  )
  for side in ("torch", "jax"):
    assert len(found[side]["seconds"]) == 2
    assert found[side]["bytes"] > 2**20
  assert found["faster"] > 0


def test_two_trees_run_their_own_code(folder, tmp_path):
  """One is this checkout, the other has a step that takes half a second."""
  here = pathlib.Path(two_trees.__file__).parents[1]
  other = tmp_path / "benchmarks"
  other.mkdir()
  (other / "workload.py").write_text(
    "TASKS, SIZES = ('draw_1',), {'tiny': None}\n"
  )
  (other / "jax_loop.py").write_text(
    "import time\n"
    "class build:\n"
    "  def __init__(self, task, folder, size, **_):\n"
    "    assert task == 'draw_1'\n"
    "  def draw(self):\n"
    "    time.sleep(0.5)\n"
  )
  was, now = two_trees.compare(
    (tmp_path, here), "sample_1", str(folder), "tiny", repeats=2
  )
  assert 0.5 < was < 5
  assert 0 < now < 5


def test_a_tree_whose_process_fails_is_named(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path}: its process ended with"):
    two_trees.compare((tmp_path,), "sample_1", "nowhere", "tiny", repeats=1)


def test_a_side_that_fails_is_named(size):
  options = {"task": "sft", "folder": "nowhere", "size": size}
  options |= {"device": "cpu", "remat": "none"}
  both = {"jax": (versus_torch.build_jax, options)}
  with pytest.raises(UserError, match="jax ended with status 1"):
    sides.compare(both, repeats=1, threads=1)


def test_operations_are_those_that_are_compiled(folder, size):
  side = jax_loop.SFT(
    folder, workload.history_batch(size, 2), dtype="float32", remat="none"
  )
  counted = counts.training_flops(side.model, size, 2)
  compiled = hlo_cost.flops(hlo.parse(side.compile().as_text()))
  # All pairs in place of the causal half, and attention computed twice.
  assert 0.7 * compiled < counted < compiled


@pytest.fixture(scope="module")
def rl(folder, size):
  """Returns RL's side and what it was compiled to."""
  options = {"dtype": "float32", "remat": "dots"}
  side = jax_loop.build("rl_conditional", folder, size, **options)
  return side, side.compile().as_text()


def test_operations_of_rl_are_those_that_are_compiled(rl, size):
  side, text = rl
  counted = counts.rl_flops(side.model, size)
  compiled = hlo_cost.flops(hlo.parse(text))
  # Compiled: sampling, all pairs and what is computed again as well.
  assert 0.6 * compiled < counted < compiled


def test_parts_of_a_step_are_all_of_it(rl):
  found = breakdown.measure(*rl)
  seconds = {}
  for one in found["parts"]:
    seconds.setdefault(one["group"], []).append(one["seconds"])
  assert set(seconds) == set(breakdown.GROUPS)
  assert min(sum(values) for values in seconds.values()) > 0
  total = sum(sum(values) for values in seconds.values())
  assert total == pytest.approx(found["traced"])
  text = breakdown.table(found | {"size": "tiny", "task": "rl_conditional"})
  assert "\n  sampling " in text


def test_time_is_split_among_what_runs_at_once():
  second = 1_000_000_000
  spans = [(0, 2 * second, "a"), (second, 4 * second, "b")]
  spans += [(2 * second, 4 * second, "b"), (5 * second, 6 * second, "a")]
  assert tracing.shares(spans, "idle") == {"a": 2.5, "b": 2.5, "idle": 1.0}


def test_an_rl_step_is_held_to_what_the_machine_can_do(rl, size, monkeypatch):
  monkeypatch.setattr(limits, "STREAM", 2**16)
  row = roofline.rl_row(rl[0], size, 1)
  assert 0 < row["least"] <= row["least_of_products"]
  assert row["share"] == row["least"] / row["seconds"] > 0
  assert len(row["rates"]) == 8
  assert f"{row['share']:.0%}" in roofline.line({"size": "tiny"} | row)


def test_sampling_is_held_to_the_best_read(folder, size, monkeypatch):
  monkeypatch.setattr(limits, "STREAM", 2**16)
  side = jax_loop.build("sample_8", folder, size, dtype="float32", remat="none")
  row = roofline.sampling_row(side, size, 8, 1)
  assert row["limit"] == max(row["rates"].values())
  of_rows = max(row["rates"][f"times 16 rows, {who}"] for who in SIDES)
  assert row["share_of_products"] == row["rate"] / of_rows


def test_growth_of_a_known_power(folder, size):
  assert growth.slope((1, 2, 4), (3.0, 12.0, 48.0)) == pytest.approx(2)
  options = {"history": 1, "prompts": 1}
  found = [
    growth.measure(folder, size, 1, samples=samples, **options)
    for samples in (2, 4)
  ]
  # The prompt costs the same.
  power = growth.slope((2, 4), [one["flops"] for one in found])
  assert 0.1 < power < 0.9
  assert found[0]["seconds"] > found[0]["sampling"] > 0
  row = growth.fit("samples", (2, 4), found)
  assert row["powers"]["operations"] == power
  line = growth.line(row)
  assert f" {power:.2f} " in line
  assert line.endswith(row["bound"])


@pytest.mark.parametrize(
  ("powers", "bounded"),
  [
    ((0.3, 0.9, 0.5), "stays"),
    ((1.3, 0.9, 0.5), "caches"),
    ((1.0, 0.9, 0.7), "code by code"),
    ((1.0, 0.9, 0.2), "operations"),
  ],
)
def test_what_bounds_a_step_is_told_by_its_powers(powers, bounded):
  assert bounded in growth.bound(*powers)
