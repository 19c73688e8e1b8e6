import json

import numpy as np

from genrec_jax.evals import alarm, curves

USERS = 64


def seen(reward=0.5, future=0.6, diversity=0.4, kid=0.05, seed=0, noise=0.02):
  """Returns an evaluation; users differ far more than evaluations do."""
  rng = np.random.default_rng(9)
  users = rng.normal(0, 0.2, (3, USERS))
  users -= users.mean(1, keepdims=True)
  own = np.random.default_rng(seed).normal(0, noise, (3, USERS))
  resamples = np.random.default_rng(8).normal(0, 0.01, 1001)
  resamples[0] = 0
  return {
    "reward": reward + users[0] + own[0],
    "future_eye_mean": future + users[1] + own[1],
    "diversity_eye": diversity + users[2] + own[2],
    "kid_eye": kid + resamples,
  }


def fallen(**now):
  return alarm.fallen(seen(), seen(seed=1, **now), seed=0)


def test_it_rings_where_the_reward_rises_and_a_judge_sees_a_fall():
  assert fallen(reward=0.6, future=0.55) == ["future_eye_mean"]
  assert fallen(reward=0.6, kid=0.2) == ["kid_eye"]
  assert fallen(reward=0.6, diversity=0.1) == ["diversity_eye"]
  assert fallen(reward=0.6, future=0.5, kid=0.2, diversity=0.1) == [
    "future_eye_mean",
    "diversity_eye",
    "kid_eye",
  ]


def test_it_is_silent_where_the_run_is_healthy():
  assert fallen(reward=0.6) == []  # nothing else has changed but by noise
  assert fallen(reward=0.6, future=0.7, kid=0.01, diversity=0.5) == []
  # RL sharpens: some of the diversity and of the fidelity goes.
  assert fallen(reward=0.6, diversity=0.3, kid=0.08) == []


def test_a_multiple_of_next_to_nothing_is_not_far():
  """A model may begin as near as real items are to one another."""
  for begin in (0.001, -0.003):
    near = seen(kid=begin)

    def rings(kid, near=near):
      return alarm.fallen(near, seen(reward=0.6, kid=kid, seed=1), seed=0)

    assert rings(0.04) == []  # forty times as far
    # Twice NEAR, and beyond the interval: +-0.03 by `seen`.
    assert rings(2 * alarm.NEAR + 0.025) == []
    assert rings(2 * alarm.NEAR + 0.035) == ["kid_eye"]


def test_it_is_silent_where_the_reward_has_not_risen():
  worse = {"future": 0.3, "kid": 0.5, "diversity": 0.1}
  assert fallen(reward=0.5, **worse) == []
  assert fallen(reward=0.4, **worse) == []


def test_a_change_within_its_interval_is_none():
  # .01 of users who differ by .2, with evaluations that differ by .2, too.
  noisy = seen(reward=0.6, future=0.59, seed=1, noise=0.2)
  assert alarm.fallen(seen(noise=0.2), noisy, seed=0) == []
  assert fallen(reward=0.505, future=0.3) == []  # the rise may be none


def test_resamples_without_a_value_do_not_silence_it():
  bad = seen(reward=0.6, kid=0.2, seed=1)
  bad["kid_eye"][5] = np.nan
  assert alarm.fallen(seen(), bad, seed=0) == ["kid_eye"]


def test_without_a_reward_or_a_judge_there_is_nothing_to_ring_for():
  bad = seen(reward=0.9, future=0.1, seed=1)
  del bad["reward"]
  assert alarm.fallen(seen(), bad, seed=0) == []
  alone = {"reward": seen(reward=0.9)["reward"]}
  assert alarm.fallen(seen(), alone, seed=0) == []


def test_a_run_that_was_resumed_rings_where_one_that_was_not_does(
  tmp_path, capsys
):
  watch = alarm.Watch(str(tmp_path), seed=0)
  assert watch.look(0, seen()) == {}
  assert watch.look(40, seen(reward=0.6, seed=1)) == {}
  resumed = alarm.Watch(str(tmp_path), seed=0)
  assert capsys.readouterr().out == ""
  assert resumed.look(80, seen(reward=0.6, future=0.5, seed=1)) == {
    "alarm_future_eye_mean": 1.0
  }
  assert capsys.readouterr().out == (
    "warning: the reward may be hacked: at step 80 it had risen on held-out"
    " users, while future mean by eye went from 0.601 to 0.499; see"
    " docs/evaluation.md\n"
  )
  # A run that begins anew forgets what was there.
  assert resumed.look(0, seen(future=0.4)) == {}
  assert resumed.look(40, seen(reward=0.6, future=0.5, seed=1)) == {}


def test_alarms_are_in_the_words_of_the_report(tmp_path):
  rows = [
    {"step": 0, "eval/kid_eye": 0.05, "eval/diversity_eye": 0.5},
    {"step": 40, "eval/kid_eye": 0.06, "eval/diversity_eye": 0.3},
    {
      "step": 80,
      "eval/kid_eye": 0.25,
      "eval/diversity_eye": 0.125,
      "eval/alarm_kid_eye": 1.0,
      "eval/alarm_diversity_eye": 1.0,
    },
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(text)
  found = curves.read(str(tmp_path))
  assert alarm.lines(found) == [
    "the reward may be hacked: at step 80 it had risen on held-out users, while"
    " KID by eye went from 0.050 to 0.250 and diversity by eye went from 0.500"
    " to 0.125; see docs/evaluation.md"
  ]
  charts, constant = curves.charts(found, {"models": {}})
  assert constant == []  # an alarm is no curve
  assert len(charts["Users, during training"]) == 2
  assert alarm.lines({}) == []
