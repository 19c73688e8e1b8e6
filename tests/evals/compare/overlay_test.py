from genrec_jax.evals.compare import groups, overlay, runs


def _overlays(*paths, rows=()):
  found = groups.group(runs.open_runs(paths, rows))
  return overlay.overlays(found, {g.name: f"c{i}" for i, g in enumerate(found)})


def test_a_line_for_each_run_in_its_groups_colour(make_run):
  charts = _overlays(
    make_run("a0", 1.0),
    make_run("a1", 2.0, config={"seed": 1}, steps=(0, 1, 2, 4)),
    make_run("b0", 0.5, config={"rl.advantage": "rloo"}),
  )
  # The KL never changes, and seconds are no metric.
  assert list(charts) == ["Reward and its parts"]
  (chart,) = charts["Reward and its parts"]
  assert chart.title == "reward"
  assert [line.colour for line in chart.lines] == ["c0", "c0", "c1"]
  assert chart.lines[1].name == "advantage=grpo, seed 1"
  # One scale for all: the longest run ends at the right, the others halfway.
  ends = [float(x.path.split()[-1].split(",")[0]) for x in chart.lines]
  assert ends[1] == chart.right
  assert ends[0] == ends[2] == (chart.left + chart.right) / 2
  tops = [float(x.path.split()[-1].split(",")[1]) for x in chart.lines]
  assert tops[1] < tops[0] < tops[2]  # 8, 2 and 1; pixels grow downwards
  assert [step for _, step, _ in chart.ticks] == [0, 4]


def test_many_values_are_averaged(make_run):
  (charts,) = _overlays(make_run("a", 1.0, steps=range(100))).values()
  (line,) = charts[0].lines
  assert len(line.path.split()) == 100
  # The last ten are 94.5 on average; a margin of 6 % is above them.
  assert charts[0].grid[-1][1] == "100"


def test_curves_are_of_the_model_that_was_trained(make_run):
  path = make_run("a", 1.0)
  (charts,) = _overlays(path, path, rows=["sft", "rl"]).values()
  assert [line.name for line in charts[0].lines] == ["row=rl, seed 0"]


def test_an_evaluation_has_no_curves(make_run):
  assert _overlays(make_run("a", 1.0, steps=())) == {}
