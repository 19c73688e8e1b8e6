"""All of a GPU's benchmark runs, at a tiny size on a CPU."""

import time
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import gpu, gpu_attention, gpu_jax, gpu_torch, workload
from genrec_jax.testing import PAD


class Said(dict):
  """What parts say: task -> figures; what fails is an error here."""

  def __call__(self, task, **found):
    assert "failed" not in found, (task, found["failed"])
    self.setdefault(task, {}).update(found)


def left():
  return 600.0


def test_every_task_of_this_project_runs():
  said, tasks = Said(), [*gpu.TASKS, "sft" + gpu_jax.BLOCKS]
  gpu_jax.run("tiny", "cpu", said, left, tasks)
  assert said.keys() == set(tasks)
  for task, found in said.items():
    assert len(found["seconds"]) == 4, task
    assert min(found["seconds"]) > 0
    assert found["gigabytes"] > 0
    if task.startswith(("rl_", "sft")):
      assert np.isfinite(found["loss"])
      assert found["grad_norm"] > 0.01
    else:
      assert found["codes"] > 1
      size = workload.SIZES["tiny"]
      assert found["ms a code"] == pytest.approx(
        1e3 * min(found["seconds"][1:]) / size.codes
      )
  assert said["sft"]["tflops"] > 0
  # The same but for the order of its sums.
  ours, blocks = said["sft"], said["sft" + gpu_jax.BLOCKS]
  assert ours["loss"] == pytest.approx(blocks["loss"], rel=1e-5)
  # Of one token of a prompt eight samples cost less than eight prompts do.
  assert said["rollout"]["GB a code"] > said["sample_1"]["GB a code"]


def test_every_task_of_torch_runs(monkeypatch):
  # Needs a compiler of C++, takes minutes, and is torch's own.
  monkeypatch.setattr(gpu_torch.Torch, "compile", lambda _: {})
  monkeypatch.setattr(gpu_torch, "GROUPS", (2, 3))
  said = Said()
  gpu_torch.run("tiny", "cpu", said, left)
  tasks = gpu_torch.tasks(mock.Mock())
  assert said.keys() == {"models", *tasks}
  for task in tasks.keys() - {"compile", "largest G"}:
    assert min(said[task]["seconds"]) > 0, task
  assert said["largest G"] == {"samples": 3}
  assert said["rl_conditional tuned"]["rows"] == 4
  assert said["sft plain"]["loss"] == pytest.approx(
    said["sft compiled"]["loss"], rel=0.1
  )


def test_attention_is_measured_and_compared_with_float32():
  said = Said()
  gpu_attention.run("cpu", said, left)
  assert said["decode, a layer and code"]["seconds"] > 0
  found = said["blocks"]
  assert 0 < found["forward"] < found["backward"]
  # bfloat16 keeps 8 bits.
  for name in ("out", "dq", "dk", "dv"):
    assert 2**-12 < found[f"error of {name}"] < 2**-6


def test_no_gradient_comes_from_what_padding_attends_to():
  *_, mask, weights = gpu_attention.inputs(gpu_attention.SMALL)
  prompt = weights[..., : mask.shape[1], :]  # [P, K, 1, 1, T, H]
  read = np.asarray((prompt != 0).any((1, 2, 3, 5)))  # [P, T]
  assert not mask.all()
  np.testing.assert_array_equal(read, mask)
  assert (weights[..., mask.shape[1] :, :] != 0).any(-1).all()


def test_the_card_s_rates_are_measured():
  found = gpu_torch.limits("cpu")
  assert found["GB/s"] > 0
  assert found["tflops"] > 0


def test_models_are_those_of_torch():
  """What is made from shapes alone is what a checkpoint would be read as."""
  model, clip = gpu_jax.models(workload.SIZES["1b"], "bfloat16", "none")
  assert model.language.dtype == "bfloat16"
  assert (model.pad_id, model.boi_id) == (PAD, workload.BOI)
  counts = [
    sum(
      leaf.size
      for leaf in jax.tree.leaves(jax.eval_shape(one.init, jax.random.key(0)))
    )
    for one in (model, clip)
  ]
  # As published: Janus-Pro-1B, and CLIP ViT-L/14.
  assert counts[0] == pytest.approx(2.09e9, rel=0.02)
  assert counts[1] == 427_616_513


FOUND = {
  ("jax", "sft"): {"seconds": [9.0, 2.0, 3.0], "gigabytes": 5, "tflops": 30.0},
  ("jax", "sample_1"): {
    "seconds": [9.0, 1.0],
    "GB/s": 100.0,
    "GB a code": 0.5,
    "ms a code": 5.0,
  },
  ("torch", "sft plain"): {"seconds": [5.0, 4.0], "gigabytes": 7.0},
  ("torch", "sft compiled"): {"seconds": [8.0, 3.0], "gigabytes": 6.0},
  ("torch", "sample_1 tuned"): {"seconds": [1.5]},
}


def test_the_table_has_all_sides():
  rows = gpu.table(FOUND).splitlines()
  assert "| sft | 2.00 s | 5.00 | 4.00 s |  | 3.00 s | 6.00 | 1.50 x |" in rows
  assert "| sample_1 | 1.00 s |  |  | 1.50 s |  |  | 1.50 x |" in rows
  assert "| rl_guided |  |  |  |  |  |  |  |" in rows


def test_rates_are_compared_with_the_card_s_where_these_were_measured():
  lines = gpu.rates(FOUND)
  assert lines == [
    "sft: 30 TFLOP/s",
    "sample_1: 5.00 ms and 0.50 GB a code, 100 GB/s",
  ]
  card = {("limits", "card"): {"GB/s": 400.0, "tflops": 60.0}}
  assert gpu.rates(FOUND | card) == [
    "copy 400 GB/s, products of bfloat16 60 TFLOP/s",
    f"{lines[0]}, 50% of products'",
    f"{lines[1]}, 25% of a copy's",
  ]


def test_of_several_runs_the_last_that_worked_counts(tmp_path):
  file = tmp_path / "results.jsonl"
  assert gpu.results(file) == {}
  lines = [
    '{"side": "jax", "task": "sft", "gigabytes": 1.0}',
    '{"side": "jax", "task": "sft", "seconds": [1.0]}',
    '{"side": "jax", "task": "sft", "seconds": [2.0]}',
    '{"side": "jax", "task": "sft", "failed": "late"}',
  ]
  file.write_text("\n".join(lines))
  (found,) = gpu.results(file).values()
  assert (found["seconds"], found["gigabytes"]) == ([2.0], 1.0)


def test_parts_run_one_after_another(tmp_path, capsys):
  file = tmp_path / "results.jsonl"
  gpu.part("limits", "tiny", "cpu", file, time.time() + 60, [])
  assert gpu.results(file)["limits", "card"]["GB/s"] > 0
  assert "limits card: GB/s " in capsys.readouterr().out
