import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import launch, metric_writer
from genrec_jax.runtime import workdir as workdir_lib
from genrec_jax.train import loop, profile
from tests.hf import tiny_janus
from tests.train import toy

ROOT = pathlib.Path(__file__).parents[2]


def stopping_at(step, inputs=None):
  """Returns inputs that are interrupted at batch `step` + 1."""
  inputs, count = inputs or toy.make_inputs(), iter(range(step + 1))

  def put(batch):
    if next(count) == step:
      raise KeyboardInterrupt
    return inputs.put(batch)

  return dataclasses.replace(inputs, put=put)


def contents(workdir):
  """Returns what must be the same however often a run was stopped."""
  files = {
    path.name: path.read_bytes()
    for path in [
      workdir / metric_writer.FILE,
      *(workdir / metric_writer.SAMPLES).glob("*.png"),
    ]
  }
  return files


def assert_same_state(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run: its workdir and its state."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, toy.run(workdir)


def test_learns_and_leaves_what_it_promises(whole):
  workdir, state = whole
  rows = metric_writer.read(str(workdir))
  assert int(state.step) == 12
  assert [r["step"] for r in rows if "loss" in r] == [1, 2, 4, 6, 8, 10, 12]
  assert [r["step"] for r in rows if "eval/loss" in r] == [0, 4, 8, 12]
  losses = [r["eval/loss"] for r in rows if "eval/loss" in r]
  assert losses == sorted(losses, reverse=True)
  kept = sorted(path.name for path in (workdir / "checkpoints").iterdir())
  assert kept == ["12", "9"]
  with Image.open(workdir / "samples" / "000008.png") as image:
    assert image.size == (6, 4)
    assert image.getpixel((0, 0)) == (8, 8, 8)
  assert list(workdir.glob("events.out.tfevents*"))
  assert json.loads((workdir / "config.json").read_text())["seed"] == 0


@pytest.mark.parametrize("step", [0, 2, 3, 4, 7, 11])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path, whole, step):
  with pytest.raises(KeyboardInterrupt):
    toy.run(tmp_path, stopping_at(step))
  assert_same_state(toy.run(tmp_path), whole[1])
  assert contents(tmp_path) == contents(whole[0])


def test_a_step_is_traced_and_changes_nothing(tmp_path, whole):
  assert_same_state(toy.run(tmp_path, profile=5), whole[1])
  assert contents(tmp_path) == contents(whole[0])
  [folder] = (tmp_path / profile.FOLDER).iterdir()
  assert folder.name == "step_5"
  assert list(folder.rglob("*.xplane.pb"))
  assert (folder / profile.PROGRAM).read_text().startswith("HloModule")


def test_stopping_thrice_changes_nothing(tmp_path, whole):
  for steps in (5, 4, 2):
    with pytest.raises(KeyboardInterrupt):
      toy.run(tmp_path, stopping_at(steps))
  assert_same_state(toy.run(tmp_path), whole[1])
  assert contents(tmp_path) == contents(whole[0])


def test_running_a_finished_run_again_only_finishes(tmp_path, whole):
  toy.run(tmp_path)
  finished = []
  inputs = toy.make_inputs(
    step=None, finish=lambda state, frozen, workdir: finished.append(workdir)
  )
  assert_same_state(toy.run(tmp_path, inputs), whole[1])
  assert finished == [str(tmp_path)]
  assert contents(tmp_path) == contents(whole[0])


@pytest.mark.parametrize(("signalled", "saved"), [(1, 1), (12, 12), (13, 12)])
def test_a_run_that_is_asked_to_stop_saves(
  tmp_path, whole, monkeypatch, signalled, saved
):
  # Step 13 is what JAX is asked after the last evaluation.
  def asked(step):
    return step == signalled

  finished = []
  inputs = toy.make_inputs(finish=lambda *_: finished.append(True))
  with monkeypatch.context() as patch:
    patch.setattr(multihost_utils, "reached_preemption_sync_point", asked)
    with pytest.raises(UserError) as error:
      toy.run(tmp_path, inputs)
  assert f"(SIGTERM): step {saved} of 12 is saved" in str(error.value)
  assert not finished
  assert workdir_lib.newest_step(str(tmp_path)) == saved
  assert_same_state(toy.run(tmp_path), whole[1])
  assert contents(tmp_path) == contents(whole[0])


def test_sigterm_waits_only_while_there_is_something_to_save(
  tmp_path, monkeypatch
):
  events, inputs = [], toy.make_inputs()

  def noted(name, function):
    return lambda *args: (events.append(name), function(*args))[1]

  @contextlib.contextmanager
  def deferring():
    events.append("defer")
    yield
    events.append(workdir_lib.newest_step(str(tmp_path)))

  monkeypatch.setattr(launch, "deferring_sigterm", deferring)
  names = ("evaluate", "step", "finish")
  watched = {name: noted(name, getattr(inputs, name)) for name in names}
  toy.run(tmp_path, dataclasses.replace(inputs, **watched), steps=2)
  assert events == [
    "evaluate",
    "step",
    "defer",
    "step",
    "evaluate",
    2,
    "finish",
  ]


def test_sigkill_while_saving_resumes_bit_for_bit(tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  command = [sys.executable, "-m", "tests.train.toy"]
  subprocess.run([*command, str(whole)], cwd=ROOT, check=True)

  def unfinished():
    # Saves of later steps only: what is resumed from must exist.
    return list(killed.glob("checkpoints/[69].orbax-checkpoint-tmp*"))

  with subprocess.Popen([*command, str(killed)], cwd=ROOT) as process:
    while not unfinished() and process.poll() is None:
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
  assert process.returncode == -signal.SIGKILL
  assert unfinished(), "killed too late to be in the middle of a save"
  assert workdir_lib.newest_step(str(killed)) in (3, 6)

  subprocess.run([*command, str(killed)], cwd=ROOT, check=True)
  assert not unfinished()
  assert contents(killed) == contents(whole)
  assert_same_state(
    tiny_janus.read_params(str(killed)), tiny_janus.read_params(str(whole))
  )


def test_a_torn_last_row_is_dropped(tmp_path, whole):
  with pytest.raises(KeyboardInterrupt):
    toy.run(tmp_path, stopping_at(7))
  with open(tmp_path / metric_writer.FILE, "a") as file:
    file.write('{"step": 7, "lo')
  toy.run(tmp_path)
  assert contents(tmp_path) == contents(whole[0])


def test_compiles_its_step_once(tmp_path):
  # One executable serves a fresh and a resumed run, before and after
  # evaluations and saves.
  toy.compiled.cache_clear()
  inputs = toy.make_inputs()
  with pytest.raises(KeyboardInterrupt):
    toy.run(tmp_path, stopping_at(7, inputs))
  toy.run(tmp_path)
  assert inputs.step._cache_size() == 1


def test_a_checkpoint_of_donated_arrays_is_sound(tmp_path):
  # Saves overlap with steps that reuse the buffers being saved.
  inputs, seen = toy.make_inputs(ballast=20_000), {}

  def evaluate(state, frozen):
    seen[int(state.step)] = jax.tree.map(np.array, state.params)
    return inputs.evaluate(state, frozen)

  watched = dataclasses.replace(inputs, evaluate=evaluate)
  toy.run(tmp_path, watched, eval_every=1, checkpoint_every=1, keep=12)
  for step in range(1, 13):
    assert_same_state(tiny_janus.read_params(str(tmp_path), step), seen[step])


def test_resumes_on_another_mesh(tmp_path, whole):
  assert jax.device_count() == 8, "tests/conftest.py fakes 8 devices"
  with pytest.raises(KeyboardInterrupt):
    toy.run(tmp_path, stopping_at(7))
  mesh = mesh_lib.make_mesh(data=4, model=2)
  toy.compiled.cache_clear()
  inputs = toy.make_inputs(mesh)
  state = toy.run(tmp_path, inputs)
  # One executable, right after the restore and after the evaluation of step 8.
  assert inputs.step._cache_size() == 1
  kernel = state.params["fit"]["kernel"]
  moment = state.opt_state[1][0].mu["fit"]["kernel"]
  assert kernel.sharding == moment.sharding
  assert kernel.sharding.shard_shape(kernel.shape) == (4, 4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    state,
    whole[1],
  )


def test_refuses_a_workdir_of_another_config(tmp_path):
  toy.run(tmp_path, steps=3)
  before = contents(tmp_path)
  other = '{"seed": 1, "optim": {"lr": 0.1, "b1": 0.9}, "workdir": "elsewhere"}'
  with pytest.raises(UserError) as error:
    toy.run(tmp_path, config_json=other)
  lines = str(error.value).splitlines()
  assert str(tmp_path) in lines[0]
  assert [line.strip() for line in lines[1:]] == [
    "optim.b1: absent there, 0.9 now",
    "optim.lr: 0.01 there, 0.1 now",
    "seed: 0 there, 1 now",
  ]
  assert contents(tmp_path) == before


def test_refuses_a_workdir_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot be written.*--workdir"):
    toy.run(tmp_path / "file" / "run")


def test_refuses_a_checkpoint_of_other_parameters(tmp_path):
  toy.run(tmp_path, steps=3)
  with pytest.raises(UserError, match="missing ballast/kernel: expected float"):
    toy.run(tmp_path, toy.make_inputs(ballast=8))


def poisoned(step, what):
  """Returns inputs of a run whose step number `step` gives a NaN."""
  inputs = toy.make_inputs()

  def poison(state, frozen, batch):
    bad = int(state.step) + 1 == step
    state, values = inputs.step(state, frozen, batch)
    if bad and what == "loss":
      values["loss"] = jnp.float32(jnp.nan)
    if bad and what == "parameters":
      params = jax.tree.map(lambda x: x * jnp.nan, state.params)
      state = state.replace(params=params)
    return state, values

  # The guard of the loop forbids the constants that this poison moves.
  def step_fn(*args):
    with jax.transfer_guard("allow"):
      return poison(*args)

  return dataclasses.replace(inputs, step=step_fn)


@pytest.mark.parametrize(
  ("what", "step", "message", "good"),
  [
    ("loss", 8, "loss is nan at step 8", 6),
    ("loss", 9, "loss is nan at step 9", 6),
    ("loss", 2, "loss is nan at step 2.*no checkpoint was saved", None),
    ("parameters", 9, "parameters are not finite after step 9", 6),
  ],
)
def test_stops_at_a_nan(tmp_path, what, step, message, good):
  with pytest.raises(UserError, match=message) as error:
    toy.run(tmp_path, poisoned(step, what))
  assert workdir_lib.newest_step(str(tmp_path)) == good
  if good:
    assert f"last good checkpoint is {tmp_path}/checkpoints/{good}" in str(
      error.value
    )
    for leaf in jax.tree.leaves(tiny_janus.read_params(str(tmp_path))):
      assert np.isfinite(leaf).all()
  assert "NaN" not in (tmp_path / metric_writer.FILE).read_text()


@contextlib.contextmanager
def files_of_at_most(size):
  """Lets writes beyond `size` bytes of a file fail, as on a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_stops_at_once_when_a_checkpoint_cannot_be_written(tmp_path):
  # Saving goes on next to later steps: its failure must not wait for the next.
  inputs, taken = toy.make_inputs(ballast=20_000), []

  def put(batch):
    taken.append(batch)
    time.sleep(0.02)
    return inputs.put(batch)

  slow = dataclasses.replace(inputs, put=put)
  toy.run(tmp_path, slow, steps=3)
  taken.clear()
  with (
    files_of_at_most(200_000),
    pytest.raises(UserError, match="cannot save a checkpoint") as error,
  ):
    toy.run(tmp_path, slow, steps=1003, eval_every=0, checkpoint_every=6)
  assert len(taken) < 1000
  assert "\n" not in str(error.value)
  assert f"the last whole one is {tmp_path}/checkpoints/3" in str(error.value)
  toy.run(tmp_path, inputs, steps=6)
  assert workdir_lib.newest_step(str(tmp_path)) == 6


def test_metrics_that_cannot_be_written_stop_it_too(tmp_path):
  with (
    files_of_at_most(300),
    pytest.raises(UserError, match="cannot write metrics into"),
  ):
    toy.run(tmp_path, checkpoint_every=0)


def test_says_when_the_data_ends(tmp_path):
  inputs = toy.make_inputs(iterator=toy.batches(num_rows=40))
  with pytest.raises(UserError, match="data ended after 5 of 12 steps"):
    toy.run(tmp_path, inputs)


def test_forbids_transfers_in_a_step(tmp_path):
  inputs = toy.make_inputs(put=lambda batch: batch)
  with pytest.raises(Exception, match="Disallowed host-to-device"):
    toy.run(tmp_path, inputs)


def test_tells_its_progress_from_the_first_step(tmp_path, capfd):
  toy.run(tmp_path)
  lines = capfd.readouterr().out.splitlines()
  steps = [line for line in lines if "loss" in line]
  assert steps[0].startswith("step 1/12  first step ")
  assert "steps/s  ETA 0:00:00, then evaluation  loss" in steps[-1]
  assert steps[-1].startswith("step 12/12")


def test_a_run_without_evaluation_saves_once(tmp_path):
  toy.run(tmp_path, eval_every=0, checkpoint_every=0)
  assert os.listdir(tmp_path / "checkpoints") == ["12"]
  assert not any(
    "eval/loss" in row for row in metric_writer.read(str(tmp_path))
  )


def test_a_schedule_by_hand():
  schedule = loop.Schedule(
    steps=5, log_every=2, eval_every=3, checkpoint_every=0, keep=1
  )
  found = {
    name: [step for step in range(6) if getattr(schedule, name)(step)]
    for name in ("logs", "evaluates", "saves")
  }
  # The first and the last step are logged; the start and the end evaluated.
  assert found == {
    "logs": [0, 1, 2, 4, 5],
    "evaluates": [0, 3, 5],
    "saves": [5],
  }
  every = dataclasses.replace(schedule, eval_every=0, checkpoint_every=2)
  assert not any(every.evaluates(step) for step in range(6))
  assert [s for s in range(1, 6) if every.saves(s)] == [2, 4, 5]
