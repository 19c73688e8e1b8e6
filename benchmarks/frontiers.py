"""How much a run's frontier leaves to be had at equal diversity.

    python -m benchmarks.frontiers --run=DIR

DIR is an evaluation at several `eval.temperatures`, on the synthetic world. At
each diversity of its curves, by the judge, stand the wants that its models
show; those of the exact posterior to a power, which is what a lower temperature
makes of a perfect model; and the most that any model can show whose samples are
independent, with backgrounds and sizes as in the world.

Letters: U users, K combinations of wanted attributes, E the judge's width, D
points of a curve.
"""

from collections.abc import Mapping, Sequence

from absl import flags
import numpy as np

from benchmarks import allowed
from genrec_jax.core.errors import UserError
from genrec_jax.data import world
from genrec_jax.evals import frontier, oracles
from genrec_jax.evals.compare import runs
from genrec_jax.runtime import cli, path_flags
from genrec_jax.runtime import workdir as workdir_lib

POWERS = (1, 1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 12)
# What a unit of diversity is worth in units of wants shown.
WORTH = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
ENOUGH = 5e-5  # of wants shown, what is left to gain at most
STEPS = 10_000  # some hundred are enough
COMBINATIONS = np.stack(
  np.unravel_index(
    np.arange(np.prod([world.COUNTS[a] for a in world.WANTED])),
    [world.COUNTS[a] for a in world.WANTED],
  ),
  -1,
)  # [K, 3]


def centres(embeds: np.ndarray) -> np.ndarray:
  """Returns mean embeddings [K, E] of the items [items, E] of each K."""
  wanted = world.attributes(np.arange(world.NUM_ITEMS))[:, world.WANTED]
  same = (wanted == COMBINATIONS[:, None]).all(-1)  # [K, items]
  return same @ embeds / same.sum(1, keepdims=True)


def mixture(users: allowed.Users, power: float) -> np.ndarray:
  """Returns how often the posterior to a power shows each K: [U, K]."""
  found = np.ones((len(users.items), len(COMBINATIONS)))
  for column, p in enumerate(allowed.posterior(users)):
    found *= oracles.sharpened(p, power)[:, COMBINATIONS[:, column]]
  return found


def hopes(users: allowed.Users) -> np.ndarray:
  """Returns the share of wants that each K meets, as far as known: [U, K]."""
  wants = oracles.wanted(*allowed.known(users))
  columns = [p[:, COMBINATIONS[:, i]] for i, p in enumerate(wants)]
  return np.mean(columns, axis=0)


def best(
  start: np.ndarray, hoped: np.ndarray, similar: np.ndarray, worth: float
) -> np.ndarray:
  """Returns the mixtures [U, K] of most wants shown plus worth of diversity.

  That is q h - worth q S q, which is concave: accelerated projected gradient
  (Beck and Teboulle 2009), until users can gain `ENOUGH` at most on average.

  Args:
    start: mixtures [U, K].
    hoped: h, [U, K].
    similar: S, [K, K] products of the centres.
    worth: of diversity, > 0.
  """
  # How fast the slope turns where sums stay 1.
  apart = np.eye(len(similar)) - 1 / len(similar)
  bend = 2 * worth * np.linalg.eigvalsh(apart @ similar @ apart)[-1]
  q, ahead, pace = start, start, 1.0
  for step in range(1, STEPS):
    moved = ahead + (hoped - 2 * worth * ahead @ similar) / bend
    new, faster = onto_simplex(moved), (1 + (1 + 4 * pace**2) ** 0.5) / 2
    ahead = new + (pace - 1) / faster * (new - q)
    q, pace = new, faster
    if step % 10 == 0:
      slope = hoped - 2 * worth * q @ similar  # [U, K]
      # What a line upwards would gain, and so any concave function at most.
      if np.mean(slope.max(1) - (q * slope).sum(1)) < ENOUGH:
        return q
  raise RuntimeError(f"no mixture within {ENOUGH} of the best in {STEPS} steps")


def onto_simplex(values: np.ndarray) -> np.ndarray:
  """Returns the nearest mixtures to values [U, K]: none below 0, of sum 1.

  Held, Wolfe and Crowder (1974): all are lowered by as much, and cut at 0.
  """
  falling = -np.sort(-values, 1)
  excess = (falling.cumsum(1) - 1) / np.arange(1, values.shape[1] + 1)
  kept = (falling > excess).sum(1, keepdims=True)  # [U, 1], how many are not 0
  return np.maximum(values - np.take_along_axis(excess, kept - 1, 1), 0)


def place(
  q: np.ndarray, users: allowed.Users, middle: np.ndarray
) -> tuple[float, float]:
  """Returns the expected diversity and preference_match of mixtures [U, K]."""
  met = (users.wants[:, None] == COMBINATIONS).mean(-1)  # [U, K]
  lengths = np.square(q @ middle).sum(-1)  # [U], cosines of independent pairs
  return float(1 - lengths.mean()), float((q * met).sum(-1).mean())


def curves(
  users: allowed.Users, embeds: np.ndarray
) -> dict[str, list[tuple[float, float]]]:
  """Returns the points (diversity, wants shown) of what the world allows."""
  middle, hoped = centres(embeds), hopes(users)
  start, similar = mixture(users, 1.5), middle @ middle.T
  return {
    "posterior": [place(mixture(users, p), users, middle) for p in POWERS],
    "most": [
      place(best(start, hoped, similar, worth), users, middle)
      for worth in WORTH
    ],
  }


def table(found: Mapping[str, Sequence[tuple[float, float]]]) -> str:
  """Returns curves, read at the points of the models', as Markdown."""
  models = [n for n in found if n not in ("posterior", "most")]
  corners = sorted({d for name in models for d, _ in found[name]})
  lines = [
    f"| diversity | {' | '.join(found)} |",
    f"|---|{'---|' * len(found)}",
  ]
  for at in corners:
    cells = [_read(np.asarray(points), at) for points in found.values()]
    lines.append(f"| {at:.3f} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _read(points: np.ndarray, at: float) -> str:
  """Returns y of points [D, 2] at x, linear between them; '' beyond them."""
  inside = points[:, 0].min() <= at <= points[:, 0].max()
  value = frontier.interpolate(points[None], [at])[0, 0]
  return f"{value:.3f}" if inside else ""


def main() -> None:
  """Prints the table."""
  run = flags.FLAGS.run
  summary = runs.open_runs([run])[0].summary
  measured = summary.get("frontier")
  if not measured:
    raise UserError(
      f"{run} has no frontier: evaluate at some --config.eval.temperatures"
    )
  judge = measured["diversity"].removeprefix("diversity_")
  users = allowed.held_out(
    workdir_lib.read_config(run)["data"], summary["users"]
  )
  models = {
    name: [(p["diversity"]["mean"], p["alignment"]["mean"]) for p in points]
    for name, points in measured["curves"].items()
  }
  print(table(models | curves(users, allowed.embedded(judge)[judge])))


if __name__ == "__main__":
  path_flags.path_flag("run", None, "Workdir of an evaluation.", required=True)
  cli.run(main)
