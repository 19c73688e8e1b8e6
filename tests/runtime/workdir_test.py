import json
import os

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.runtime import run_config, workdir


def save(folder):
  (folder / "checkpoints" / "2").mkdir(parents=True)


def test_the_first_run_claims_and_the_same_config_may_return(tmp_path):
  folder = str(tmp_path / "runs" / "x")
  workdir.claim(folder, '{"seed": 0, "workdir": "runs/x"}')
  assert os.listdir(folder) == ["config.json"]
  save(tmp_path / "runs" / "x")
  workdir.claim(folder, '{"workdir": "moved", "seed": 0}')
  assert workdir.read_config(folder) == {"seed": 0, "workdir": "moved"}


def run_of(**sections):
  """Returns a config as JSON: 4 steps, 2 of which `save` has saved."""
  config = {
    "train": {"steps": 4, "log_every": 1},
    "optim": {"lr": 1, "decay_steps": 0},
    "eval": {"users": 8},
    "data": {"path": "/a", "workers": 0, "sha256": "d"},
    "model": {"checkpoint": "/m", "checkpoint_sha256": "c"},
    "clip": {"checkpoint": "/j", "checkpoint_sha256": "k"},
  }
  return json.dumps({k: v | sections.get(k, {}) for k, v in config.items()})


@pytest.mark.parametrize(
  ("change", "line"),
  [
    ({"data": {"workers": 8}}, "data.workers: 0 there, 8 now"),
    ({"train": {"steps": 6}}, "train.steps: 4 there, 6 now"),
    ({"train": {"steps": 2}}, "train.steps: 4 there, 2 now"),
    ({"train": {"log_every": 2}}, "train.log_every: 1 there, 2 now"),
    ({"eval": {"users": 9}}, "eval.users: 8 there, 9 now"),
    ({"data": {"path": "/moved"}}, ""),
    ({"model": {"checkpoint": "/moved"}}, ""),
    ({"clip": {"checkpoint": "/moved"}}, ""),
  ],
)
def test_what_changes_no_step_taken_may_differ(tmp_path, capsys, change, line):
  workdir.claim(str(tmp_path), run_of())
  save(tmp_path)
  workdir.check(str(tmp_path), run_of(**change))
  workdir.claim(str(tmp_path), run_of(**change))
  said = capsys.readouterr().out
  assert said == (f"changed since this run began: {line}\n" if line else "")
  assert workdir.read_config(str(tmp_path)) == json.loads(run_of(**change))


@pytest.mark.parametrize(
  ("change", "line"),
  [
    ({"optim": {"lr": 2}}, "optim.lr: 1 there, 2 now"),
    (
      {"data": {"sha256": "e"}},
      'data.sha256: "d" there, "e" now; /a is not what the run began with',
    ),
    (
      {"model": {"checkpoint_sha256": "e"}},
      'model.checkpoint_sha256: "c" there, "e" now; /m is not what the run'
      " began with",
    ),
    (
      {"clip": {"checkpoint_sha256": "e"}},
      'clip.checkpoint_sha256: "k" there, "e" now; /j is not what the run'
      " began with",
    ),
    (
      {"train": {"steps": 1}},
      "train.steps: 4 there, 1 now, and step 2 is saved already",
    ),
  ],
)
def test_what_changes_steps_taken_is_refused(tmp_path, change, line):
  workdir.claim(str(tmp_path), run_of())
  save(tmp_path)
  before = (tmp_path / "config.json").read_text()
  for enter in (workdir.check, workdir.claim):
    with pytest.raises(UserError) as error:
      enter(str(tmp_path), run_of(**change))
    assert str(error.value).splitlines()[1:] == [f"  {line}"]
  assert (tmp_path / "config.json").read_text() == before


def test_a_schedule_that_has_ended_cannot_be_prolonged(tmp_path):
  ends = {"decay_steps": 4}
  workdir.claim(str(tmp_path), run_of(optim=ends))
  save(tmp_path)
  with pytest.raises(UserError, match=r"is 0 from optim\.decay_steps=4 on.*--"):
    workdir.check(str(tmp_path), run_of(optim=ends, train={"steps": 6}))
  # Within the schedule nothing changes.
  workdir.check(str(tmp_path), run_of(optim=ends, train={"steps": 3}))


def test_paths_are_compared_where_no_hash_was_recorded(tmp_path):
  old = json.loads(run_of())
  del old["data"]["sha256"]
  workdir.claim(str(tmp_path), json.dumps(old))
  save(tmp_path)
  with pytest.raises(UserError, match=r'data\.path: "/a" there, "/b" now'):
    workdir.check(str(tmp_path), run_of(data={"path": "/b"}))
  workdir.claim(str(tmp_path), run_of())
  workdir.check(str(tmp_path), run_of(data={"path": "/b"}))


@pytest.mark.parametrize("left", ["", "2.orbax-checkpoint-tmp-1"])
def test_a_run_that_saved_nothing_makes_way(tmp_path, left):
  workdir.claim(str(tmp_path), '{"seed": 0}')
  (tmp_path / "checkpoints" / left).mkdir(parents=True)
  workdir.claim(str(tmp_path), '{"seed": 1}')
  assert workdir.read_config(str(tmp_path)) == {"seed": 1}


def test_checking_writes_nothing(tmp_path):
  workdir.check(str(tmp_path), "{}")
  assert os.listdir(tmp_path) == []


def test_another_config_is_refused_with_its_differing_keys(tmp_path):
  workdir.claim(str(tmp_path), '{"rl": {"kl": "k2", "clip": 0.2}}')
  save(tmp_path)
  with pytest.raises(UserError) as error:
    workdir.check(str(tmp_path), '{"rl": {"kl": "k3", "new": null}}')
  assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
    "rl.clip: 0.2 there, absent now",
    'rl.kl: "k2" there, "k3" now',
    "rl.new: absent there, null now",
  ]


def test_weights_are_compared_where_both_are_known(tmp_path):
  section, key = run_config.FINGERPRINT.split(".")
  workdir.claim(str(tmp_path), json.dumps({section: {key: "a", "x": 1}}))
  save(tmp_path)
  workdir.check(str(tmp_path), json.dumps({section: {"x": 1}}))
  with pytest.raises(UserError, match='"a" there, "b" now'):
    workdir.check(str(tmp_path), json.dumps({section: {key: "b", "x": 1}}))


@pytest.mark.parametrize("text", ["", '{"seed": 0, "mo', "[]"])
def test_a_damaged_config_is_named(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  save(tmp_path)
  with pytest.raises(UserError, match=r"config\.json"):
    workdir.check(str(tmp_path), "{}")


@pytest.mark.parametrize("inner", ["", "run"])
def test_a_file_in_the_way_is_refused(tmp_path, inner):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot be written \(.*\): give"):
    workdir.check(str(tmp_path / "file" / inner), "{}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(UserError, match="Permission denied"):
    workdir.check(str(tmp_path), "{}")
