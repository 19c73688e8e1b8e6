"""What the synthetic world allows a perfect model.

    python -m benchmarks.allowed

A perfect model knows the exact posterior over the next item, raised to a power
as guidance and temperature raise it. Printed by the metrics of the report, of
the users whom the first command evaluates: what it shows if it knows that no
item comes twice, and if it knows all but that; next to it what is shown without
any model. Letters: U users, G samples, F future items, E an encoder's width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from configs import common
from genrec_jax.core.errors import UserError
from genrec_jax.data import synthetic, windows, world, world_users
from genrec_jax.data.eval_batches import evenly
from genrec_jax.evals import differences, oracles, scores
from genrec_jax.evals.encoders import embed_uint8
from genrec_jax.evals.held_out import Truth
from genrec_jax.hf import encoders
from genrec_jax.runtime import cli
from genrec_jax.targets import Targets

SHOWN = 5  # items of a history
FUTURE = 3  # items that are looked ahead to
SEED = 99  # of users whom no training has seen
POWERS = (1, 1.1, 1.25, 1.5, 2, 3)
SAMPLES = 128  # of each user: shares of copies to +-.002
PARTS = 10  # of the catalogue; bounds memory
COLUMNS = (
  "preference_match",
  "copy_rate",
  "future_match",
  "future_clip_mean",
  "diversity",
  "diversity_tiny_judge",
)
COMPARED = "future_match"  # user by user, with copying the last item
COPY = "copy_last"

Scores = dict[str, np.ndarray]  # metric -> [U]


class Users(NamedTuple):
  """Held-out users: what is shown of them and what they want next."""

  items: np.ndarray  # [U, 5] item indices, oldest first
  future: np.ndarray  # [U, F] item indices, the next one first
  wants: np.ndarray  # [U, 3]

  @property
  def following(self) -> np.ndarray:
    """The next items: [U] item indices."""
    return self.future[:, 0]


def simulate(users: int) -> Users:
  """Returns users with whole histories, late enough for wants to have moved."""
  events = world_users.simulate(users, 12 + FUTURE, seed=SEED)
  return Users(events.items[:, 7:12], events.items[:, 12:], events.wants[:, 12])


def held_out(data: Mapping[str, Any], number: int) -> Users:
  """Returns the users that a run is evaluated on.

  Args:
    data: the section of its config.
    number: `eval.users`.

  Raises:
    UserError: the data set is no synthetic world.
  """
  if data["path"] or data["prompts"]:
    raise UserError(
      f"data.path={data['path']!r}, data.prompts={data['prompts']!r}: expected"
      " a run on the synthetic world, both empty"
    )
  names = ("num_users", "held_out", "num_events", "future_horizon", "seed")
  dataset = synthetic.open_or_build("", **{name: data[name] for name in names})
  spec = windows.WindowSpec.from_options(data)
  found = windows.find_windows(dataset, "test", spec)
  chosen = evenly(len(found), number)
  rows = [found.item_rows(n) for n in chosen]
  places = [found[n] for n in chosen]
  return Users(
    np.stack([history for history, _ in rows]),
    np.stack([future for _, future in rows]),
    np.stack([dataset.users[p.user]["wants"][p.target] for p in places]),
  )


def known(users: Users) -> tuple[np.ndarray, np.ndarray]:
  """Returns attributes [U, 5, 5] of the histories, and that all are real."""
  return world.attributes(users.items), np.ones(users.items.shape, bool)


def posterior(users: Users) -> list[np.ndarray]:
  """Returns how likely the next item has each value: 3 of [U, C]."""
  return oracles.predictive(*known(users))


def sampled_match(users: Users, power: float) -> float:
  """Returns preference_match of samples from the posterior to a power."""
  found = []
  for p, wants in zip(posterior(users), users.wants.T, strict=True):
    sharp = oracles.sharpened(p, power)
    found.append(np.take_along_axis(sharp, wants[:, None], -1))
  return float(np.mean(found))


def next_item_entropy(users: Users) -> float:
  """Returns the nats that the next item costs a perfect model."""
  following = world.attributes(users.following)
  free = np.prod([world.COUNTS[attribute] for attribute in world.FREE])
  nats = np.log(free)
  for p, attribute in zip(posterior(users), world.WANTED, strict=True):
    chosen = np.take_along_axis(p, following[:, attribute, None], -1)
    nats -= np.log(chosen).mean()
  return float(nats)


def embedded(*names: str) -> dict[str, np.ndarray]:
  """Returns unit vectors [items, E] of the catalogue, by encoder."""
  pixels = world.render(world.attributes(np.arange(world.NUM_ITEMS)))
  found = {}
  for name in names:
    handle = encoders.open_encoder(name, dtype="float32")
    params, model = handle.read(), handle.model
    embed = jax.jit(lambda p, x, model=model: embed_uint8(model, p, x))
    parts = [embed(params, part) for part in np.split(pixels, PARTS)]
    found[name] = np.concatenate(parts)
  return found


def scored(
  users: Users, shown: np.ndarray, embeds: Mapping[str, np.ndarray]
) -> Scores:
  """Returns the report's scores of items.

  Args:
    users: U of them.
    shown: [U, G, 5] attributes of what each is shown.
    embeds: encoder's name in metrics -> [items, E].
  """
  history, history_mask = known(users)
  future_mask = np.ones(users.future.shape, bool)
  found: Scores = {}
  for name, table in embeds.items():
    targets = Targets(
      text=None,
      history=table[users.items],
      history_mask=history_mask,
      future=table[users.future],
      future_mask=future_mask,
    )
    samples = table[world.item_index(shown)]  # [U, G, E]
    found |= scores.similarity_scores(samples, targets, None, name)
  truth = Truth(users.wants, history, world.attributes(users.future))
  return found | scores.truth_scores(shown, truth, history_mask, future_mask)


def shown(users: Users, seed: int = 0) -> dict[str, np.ndarray]:
  """Returns what each row shows: attributes [U, G, 5]."""
  history, mask = known(users)
  rng = np.random.default_rng(seed)
  random = rng.integers(world.NUM_ITEMS, size=(len(history), SAMPLES))
  found = {COPY: history[:, -1:], "random_item": world.attributes(random)}
  for repeats, what in ((True, "does not know"), (False, "knows")):
    for power in POWERS:
      found[f"{what} that no item comes twice, power {power:g}"] = (
        oracles.ideal_samples(
          history, mask, SAMPLES, rng, power=power, repeats=repeats
        )
      )
  return found


def table(rows: Mapping[str, Scores]) -> str:
  """Returns means of rows, and differences to copying, as Markdown."""
  pairs = [(name, COPY) for name in rows if name != COPY]
  found = differences.paired(rows, pairs, seed=0)
  heads = [*(f"`{name}`" for name in COLUMNS), f"`{COMPARED}` - {COPY}"]
  lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
  for name, row in rows.items():
    cells = [
      # Of one sample a user there is no diversity.
      "" if np.isnan(row[c]).all() else f"{np.nanmean(row[c]):.3f}"
      for c in COLUMNS
    ]
    cell = found.get(f"{name} - {COPY}", {}).get(COMPARED)
    cells.append(
      f"{cell['mean']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]"
      if cell
      else ""
    )
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def main() -> None:
  """Prints the table."""
  data = common.base("evaluate", "").data
  users = held_out(data, data.held_out)
  embeds = embedded("tiny_clip", "tiny_judge")
  embeds[encoders.CLIP_NAME] = embeds.pop("tiny_clip")
  rows = {
    name: scored(users, attributes, embeds)
    for name, attributes in shown(users).items()
  }
  print(table(rows))


if __name__ == "__main__":
  cli.run(main)
