from genrec_jax.evals.compare import groups, runs


def _group(*paths, rows=()):
  return groups.group(runs.open_runs(paths, rows))


def test_runs_that_differ_in_their_seed_are_one_group(make_run):
  found = _group(
    make_run("a1", config={"seed": 1}),
    make_run("b0", config={"rl.advantage": "rloo"}),
    make_run("a0", config={"eval.users_during": 16}),
    make_run("c0", config={"rl.advantage": "rloo", "rewards.text.weight": 0.0}),
  )
  assert [group.name for group in found] == [
    "advantage=grpo, text.weight=0.5",
    "advantage=rloo, text.weight=0.5",
    "advantage=rloo, text.weight=0",
  ]
  assert [group.seeds for group in found] == [[0, 1], [0], [0]]
  assert found[2].values == {"advantage": "rloo", "text.weight": "0"}


def test_of_many_values_a_name_has_what_differs_from_the_first(make_run):
  weights = {"rewards.text.weight": 0.0, "rewards.copy.weight": 0.0}
  found = _group(
    make_run("a"),
    make_run("b", config=weights),
    make_run("c", config={"rl.advantage": "rloo"}),
  )
  assert [group.name for group in found] == [
    "the first",
    "text.weight=0, copy.weight=0",
    "advantage=rloo",
  ]
  assert found[0].values == {
    "advantage": "grpo",
    "text.weight": "0.5",
    "copy.weight": "1",
  }


def test_a_group_alone_has_its_folders_name(make_run):
  path = make_run("a")
  (found,) = _group(path, make_run("b", config={"seed": 1}))
  assert (found.name, found.values) == (path, {})


def test_rows_of_one_run_are_groups(make_run):
  path = make_run("a")
  found = _group(path, path, rows=["sft", "rl"])
  assert [group.name for group in found] == ["row=sft", "row=rl"]


def test_a_checkpoint_is_what_it_holds(make_run):
  def run(name, path, sha):
    key = "model.checkpoint"
    return make_run(name, config={key: path, f"{key}_sha256": sha})

  moved = _group(run("a", "x", "11"), run("b", "y", "11"))
  assert len(moved) == 1
  found = _group(run("c", "x", "11"), run("d", "y", "22"))
  assert [g.name for g in found] == ["checkpoint=x", "checkpoint=y"]


def test_evaluations_of_runs_that_differ_in_their_seed_are_one_group(make_run):
  def evaluation(name, seed=0, sampling=0, **changes):
    trained = make_run(f"rl_{name}", config={"seed": seed, **changes})
    config = {"task": "evaluate", "model.checkpoint": trained, "seed": sampling}
    return make_run(name, config=config)

  found = _group(
    evaluation("a1", seed=1),
    evaluation("a0", **{"eval.users_during": 16}),
    evaluation("b", **{"rl.advantage": "rloo"}),
  )
  assert [group.name for group in found] == [
    "rl.advantage=grpo",
    "rl.advantage=rloo",
  ]
  assert [group.seeds for group in found] == [[0, 1], [0]]
  # Two samplings of one training tell nothing about the next training.
  found = _group(evaluation("c"), evaluation("d", sampling=1))
  assert [(group.name, group.seeds) for group in found] == [
    ("seed=0", [0]),
    ("seed=1", [0]),
  ]


def test_evaluations_of_models_without_a_run_are_of_their_folders(make_run):
  def evaluation(name, path, seed=0):
    # Which an evaluation records no hash of: its path must do.
    config = {"model.checkpoint": path, "model.checkpoint_sha256": None}
    return make_run(name, config=config | {"task": "evaluate", "seed": seed})

  found = _group(
    evaluation("a", "x"), evaluation("b", "y"), evaluation("c", "x", seed=1)
  )
  assert [group.name for group in found] == ["checkpoint=x", "checkpoint=y"]
  assert found[0].seeds == [0, 1]


def test_keys_lose_their_sections_where_that_tells_them_apart():
  assert groups.shorten(["rl.advantage", "rewards.text.weight", "task"]) == [
    "advantage",
    "text.weight",
    "task",
  ]
  assert groups.shorten(["model.checkpoint", "clip.checkpoint"]) == [
    "model.checkpoint",
    "clip.checkpoint",
  ]


def test_values_are_shown_short():
  shown = [groups.show(x) for x in (0.5, 1.0, [0.5, "a"], "grpo", True)]
  assert shown == ["0.5", "1", "(0.5, a)", "grpo", "True"]
