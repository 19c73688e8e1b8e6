import json
import os

import pytest

from genrec_jax.core import workdir
from genrec_jax.core.errors import UserError


def save(folder):
  (folder / "checkpoints" / "2").mkdir(parents=True)


def test_the_first_run_claims_and_the_same_config_may_return(tmp_path):
  folder = str(tmp_path / "runs" / "x")
  workdir.claim(folder, '{"seed": 0, "workdir": "runs/x"}')
  assert os.listdir(folder) == ["config.json"]
  save(tmp_path / "runs" / "x")
  workdir.claim(folder, '{"workdir": "moved", "seed": 0}')
  assert workdir.read_config(folder) == {"seed": 0, "workdir": "runs/x"}


def test_reading_processes_may_be_more_or_fewer(tmp_path):
  workdir.claim(str(tmp_path), '{"data": {"workers": 0}}')
  save(tmp_path)
  workdir.check(str(tmp_path), '{"data": {"workers": 8}}')


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
  section, key = workdir.FINGERPRINT.split(".")
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
