import pytest

from genrec_jax.config import flag, sweep
from genrec_jax.core.errors import UserError
from tests.configs_test import ROOT


def _overrides(sets=(), cases=()):
  return [one.overrides for one in sweep.configurations(sets, cases)]


def test_every_value_meets_every_other():
  assert _overrides(["rl.advantage=grpo,rloo", "optim.lr=1e-4, 3e-4"]) == [
    {"rl.advantage": "grpo", "optim.lr": "1e-4"},
    {"rl.advantage": "grpo", "optim.lr": "3e-4"},
    {"rl.advantage": "rloo", "optim.lr": "1e-4"},
    {"rl.advantage": "rloo", "optim.lr": "3e-4"},
  ]


def test_cases_stand_by_themselves_after_the_config_as_it_is():
  cases = ["a.b=0 a.c='x y'", "config.d=(1,2)"]
  assert _overrides(cases=cases) == [
    {},
    {"a.b": "0", "a.c": "x y"},
    {"d": "(1,2)"},
  ]
  # With several values there is no need for it.
  found = _overrides(["a=1,2"], ["b=3"])
  assert found == [{"a": "1"}, {"a": "2"}, {"b": "3"}]


def test_one_value_holds_for_all():
  found = sweep.configurations(["a=1", "b=2,3"], ["a=4", "c=5"])
  assert [one.overrides for one in found] == [
    {"a": "1", "b": "2"},
    {"a": "1", "b": "3"},
    {"a": "4"},
    {"a": "1", "c": "5"},
  ]
  assert [one.name for one in found] == ["b=2", "b=3", "a=4", "c=5"]
  assert found[0].folder == "b=2"


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("1,2", ["1", "2"]),
    ("(0.5,1.5),(1,)", ["(0.5,1.5)", "(1,)"]),
    ("('a,b','c'),()", ["('a,b','c')", "()"]),
    ("'a,b',c", ["a,b", "c"]),
    ('"a",[1,{2}]', ["a", "[1,{2}]"]),
    ("'a'+'b'", ["'a'+'b'"]),
    ("it's, fine'", ["it's, fine'"]),
    ("", [""]),
  ],
)
def test_commas_within_a_value(text, expected):
  assert sweep.split_values(text) == expected


@pytest.mark.parametrize(
  ("sets", "cases", "expected"),
  [
    (["a"], [], "'a' is no change of a config: expected KEY=V1,V2"),
    (["=1"], [], "'=1' is no change"),
    (["a=1", "a=2,3"], [], "--set=a is given twice"),
    (["a=1,1"], [], "two configurations are the same: a=1"),
    (["a=1,2"], ["a=1"], "two configurations are the same: a=1"),
    ([], [""], "two configurations are the same: as_it_is"),
    (["seed=1,2"], [], "seed cannot be set: give --seeds"),
    (["workdir=x"], [], "workdir cannot be set: give --out"),
    (["a=(1,2"], [], "'(1,2' has a bracket or quote without its other half"),
    ([], ["a='b"], "--case=a='b: No closing quotation"),
  ],
)
def test_what_is_no_sweep(sets, cases, expected):
  with pytest.raises(UserError) as error:
    sweep.configurations(sets, cases)
  assert str(error.value).startswith(expected)


def test_folders_tell_configurations_apart():
  def folder(**overrides):
    return sweep.Configuration(overrides, {}).folder

  assert folder(advantage="rloo", lr="1e-4") == "advantage=rloo+lr=1e-4"
  one, other = folder(path="a/b"), folder(path="a_b")
  assert one.startswith("path=a_b-")
  assert other == "path=a_b"
  long = [folder(text="x" * 200 + end) for end in "ab"]
  assert len(set(long)) == 2
  assert max(map(len, long)) < 120
  assert folder() == "as_it_is"


def test_a_config_is_loaded_as_the_flag_would():
  path = f"{ROOT}/configs/rl.py"
  found = flag.load(
    f"{path}:debug",
    {"rl.advantage": "rloo", "eval.temperatures": "(0.5,2)", "optim.lr": "1"},
  )
  assert found.rl.advantage == "rloo"
  assert found.eval.temperatures == (0.5, 2)
  assert found.optim.lr == 1.0
  assert found.train.steps == 4
  assert flag.load(path, {}).train.steps == 120


@pytest.mark.parametrize(
  ("path", "overrides", "expected"),
  [
    ("no.py", {}, "no config file 'no.py'"),
    (f"{ROOT}/configs/rl.py:x", {}, "unknown variant 'x' of configs/rl.py"),
    (f"{ROOT}/configs/rl.py", {"rl.advantag": "a"}, "unknown config key"),
    (
      f"{ROOT}/configs/rl.py",
      {"train.steps": "x"},
      "flag --config.train.steps",
    ),
  ],
)
def test_what_cannot_be_loaded(path, overrides, expected):
  with pytest.raises(UserError) as error:
    flag.load(path, overrides)
  assert str(error.value).startswith(expected)
