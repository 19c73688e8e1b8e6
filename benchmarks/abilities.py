"""What limits a model of the synthetic world, with its truth as the instrument.

    python -m benchmarks.abilities [--models=tiny_base,tiny_sft] [--users=512]

To generate a user's next item a model must read the history, infer what the
user wants, generate it, and be sampled so that it shows. Each is measured by
itself, and next to it what the world allows:

- reading: an item's attributes as the model's own words tell them of its image,
  and as a linear probe finds them in what the aligner hands on;
- coding: how much of an item the image tokenizer's first codes say at once;
- generating: a title in words, whole or with words left out, and which of the
  attributes it names are in the image;
- inferring: what histories of images and titles, of titles and of images alone
  tell of the wants, and, where nothing need be inferred, wants given in words;
- sampling: guidance and temperature.

Likelihoods tell what samples cannot: how far the codes of the next item are
from what the posterior allows, and those of an item without any prompt.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import allowed
from genrec_jax import sampling
from genrec_jax.core.types import Prompt
from genrec_jax.data import world
from genrec_jax.hf.load import Loaded, load_generator
from genrec_jax.runtime import cli

INSTRUCTION = "Draw the next item that this user will like."
READ = "Describe the image."
BATCH = 64  # prompts at once
RIDGE = 1.0  # of the probe; features are of the order of 1


class Row(NamedTuple):
  """A line of the table."""

  part: str
  what: str
  value: float
  allowed: float  # what a perfect model has; nan: no model decides it


def titles(items: np.ndarray) -> list[str]:
  """Returns the titles of items [n]."""
  return [world.title(attrs) for attrs in world.attributes(items)]


def left_padded(
  rows: Sequence[Sequence[int]], pad: int
) -> tuple[np.ndarray, np.ndarray]:
  """Stacks rows of ids: [n, T] int32 and mask [n, T], True = real."""
  length = max(map(len, rows))
  ids = np.full((len(rows), length), pad, np.int32)
  for i, row in enumerate(rows):
    ids[i, length - len(row) :] = row
  return ids, np.arange(length) >= length - np.array([[len(r)] for r in rows])


def prompts(
  loaded: Loaded, rows: Sequence[Sequence[int]], images: np.ndarray
) -> Prompt:
  """Returns prompts of ids and of uint8 images [n, N, h, w, 3]."""
  return Prompt(*left_padded(rows, loaded.model.pad_id), images)


def without_images(number: int) -> np.ndarray:
  """Returns no image for each of so many prompts."""
  side = world.IMAGE_SIZE
  return np.zeros((number, 0, side, side, 3), np.uint8)


def parts(prompt: Prompt) -> Iterator[Prompt]:
  """Yields prompts, a batch at a time; the last is repeated to fill one."""
  number = len(prompt.ids)
  for start in range(0, number, BATCH):
    rows = np.minimum(np.arange(start, start + BATCH), number - 1)
    yield jax.tree.map(lambda x, rows=rows: x[rows], prompt)


def generate(
  loaded: Loaded, prompt: Prompt, options: sampling.Sampling
) -> np.ndarray:
  """Returns the attributes [n, G, 5] that sampled images show."""
  number = len(prompt.ids)

  @jax.jit
  def generate(params, prompt, key):
    return sampling.generate_images(loaded.model, params, prompt, key, options)

  pixels = [
    generate(loaded.params, part, jax.random.key(i))
    for i, part in enumerate(parts(prompt))
  ]  # [P, G, h, w, 3] each
  images = np.round(255 * np.concatenate(pixels)[:number]).astype(np.uint8)
  shown = world.read(images.reshape(-1, *images.shape[2:]))
  return shown.reshape(number, -1, shown.shape[-1])


def code_loss(loaded: Loaded, prompt: Prompt, items: np.ndarray) -> float:
  """Returns the nats that a code of items [n] costs after their prompts."""
  model, params = loaded.model, loaded.params
  codes = item_codes(loaded, items)

  @jax.jit
  def loss(params, prompt, codes):
    embeds = model.embed(params, prompt)
    hidden = model.teacher_forced_hidden(
      params, embeds, prompt.mask, codes[:, None]
    )
    logits = model.image_vocabulary.logits(params, hidden)[:, 0]  # [P, I, C]
    cross = optax.softmax_cross_entropy_with_integer_labels
    return cross(logits, codes).mean(-1)

  costs = []
  for i, part in enumerate(parts(prompt)):
    rows = np.minimum(np.arange(i * BATCH, (i + 1) * BATCH), len(items) - 1)
    costs.append(loss(params, part, codes[rows]))
  return float(np.concatenate(costs)[: len(items)].mean())


def reading(loaded: Loaded) -> list[Row]:
  """Measures how images are read: in words, and by a probe."""
  items = np.random.default_rng(allowed.SEED).permutation(world.NUM_ITEMS)
  return [
    Row("reading", "attributes in the model's words", told(loaded, items), 1),
    Row("reading", "attributes by a linear probe", probed(loaded, items), 1),
  ]


def told(loaded: Loaded, items: np.ndarray) -> float:
  """Returns the share of words right, each after the right ones before it."""
  model, processor = loaded.model, loaded.processor
  items = items[:BATCH]
  question = processor.prompt_ids([""], READ)[:-1]
  answers = [
    processor.tokenizer.encode(" " + title, add_special_tokens=False)
    for title in titles(items)
  ]
  prompt = prompts(
    loaded,
    [question + answer for answer in answers],
    world.render(world.attributes(items))[:, None],
  )
  embeds = model.embed(loaded.params, prompt)
  hidden = model.hidden_states(loaded.params, embeds, prompt.mask)
  logits = model.text_vocabulary.logits(loaded.params, hidden)
  words = np.asarray(jnp.argmax(logits, -1))
  right = [
    row[-len(answer) - 1 : -1] == answer
    for row, answer in zip(words, answers, strict=True)
  ]
  return float(np.concatenate(right).mean())


def probed(loaded: Loaded, items: np.ndarray) -> float:
  """Returns the share of attributes that ridge regression finds in features."""
  features = jax.jit(loaded.model.image_features)
  chunks = np.split(world.render(world.attributes(items)), 10)
  x = np.concatenate([features(loaded.params, c) for c in chunks])  # [n, I, D]
  x = x.reshape(len(x), -1).astype(np.float64)
  x = np.concatenate([x - x.mean(0), np.ones((len(x), 1))], 1)
  seen = len(x) * 3 // 4
  truth = world.attributes(items)
  gram = x[:seen].T @ x[:seen] + RIDGE * np.eye(x.shape[1])
  right = []
  for column, size in zip(truth.T, world.COUNTS, strict=True):
    weights = np.linalg.solve(gram, x[:seen].T @ np.eye(size)[column[:seen]])
    right.append(np.argmax(x[seen:] @ weights, -1) == column[seen:])
  return float(np.mean(right))


def coding(loaded: Loaded) -> list[Row]:
  """Measures whether attributes can be generated one after another.

  A code that stands for many combinations of attributes has to be sampled from
  the sum over all of them, which no head of a model computes as easily as the
  sum of what is known of each attribute.
  """
  items = np.arange(world.NUM_ITEMS)
  codes, attrs = item_codes(loaded, items), world.attributes(items)
  first = codes[:, :1]
  told = [
    entropy(first) + entropy(column) - entropy(np.hstack([first, column]))
    for column in np.split(attrs, attrs.shape[1], 1)
  ]
  return [
    Row("coding", "nats of the first code", entropy(first), np.nan),
    Row("coding", "of them about one attribute at most", max(told), np.nan),
    Row(
      "coding",
      "items that the first two codes tell apart",
      len(np.unique(codes[:, :2], axis=0)),
      np.nan,
    ),
  ]


def entropy(rows: np.ndarray) -> float:
  """Returns the entropy in nats of the rows [n, k], each as likely."""
  _, counts = np.unique(rows, axis=0, return_counts=True)
  shares = counts / len(rows)
  return float(-np.sum(shares * np.log(shares)))


def item_codes(loaded: Loaded, items: np.ndarray) -> np.ndarray:
  """Returns the codes [n, I] of items [n]."""
  model = loaded.model
  encode = jax.jit(lambda p, x: model.encode_pixels(p, x / jnp.float32(255)))
  codes = []
  for start in range(0, len(items), BATCH):
    rows = np.minimum(np.arange(start, start + BATCH), len(items) - 1)
    pixels = world.render(world.attributes(items[rows]))
    codes.append(encode(loaded.params, pixels))
  return np.concatenate(codes)[: len(items)]


def generating(loaded: Loaded, users: allowed.Users) -> list[Row]:
  """Measures how titles in words are generated."""
  items, processor = users.following, loaded.processor
  attrs = world.attributes(items)
  whole = [processor.text_prompt_ids(title) for title in titles(items)]
  some = [
    processor.text_prompt_ids(wanted_words(wants)) for wants in users.wants
  ]
  blank = without_images(len(items))
  rows = []
  for guidance in (1.0, 3.0):
    options = sampling.Sampling(guidance=guidance)
    shown = generate(loaded, prompts(loaded, whole, blank), options)[:, 0]
    text = f"attributes of a title, guidance {guidance:g}"
    rows.append(Row("generating", text, float((shown == attrs).mean()), 1))
    shown = generate(loaded, prompts(loaded, some, blank), options)[:, 0]
    value = world.preference_match(shown, users.wants).mean()
    text = f"wants given in words, guidance {guidance:g}"
    rows.append(Row("generating", text, float(value), 1))
  # Every item is as likely as any other where nothing is said.
  codes, items_entropy = loaded.model.image_tokens, np.log(world.NUM_ITEMS)
  nothing = [processor.text_prompt_ids("") for _ in items]
  for text, ids, nats in (
    ("title", whole, 0.0),
    ("nothing", nothing, items_entropy),
  ):
    loss = code_loss(loaded, prompts(loaded, ids, blank), items)
    rows.append(
      Row("generating", f"nats a code, given {text}", loss, nats / codes)
    )
  return rows


def wanted_words(wants: np.ndarray) -> str:
  """Returns wants in the order of titles: 'red striped circle'."""
  words = {
    name: world.ATTRIBUTES[name][int(want)]
    for name, want in zip(world.PREFERRED, wants, strict=True)
  }
  return f"{words['colour']} {words['texture']} {words['shape']}"


def inferring(loaded: Loaded, users: allowed.Users) -> list[Row]:
  """Measures what histories tell, by what they hold."""
  ideal = allowed.sampled_match(users, 1.0)
  rows = []
  for text, prompt in histories(loaded, users).items():
    shown = generate(loaded, prompt, sampling.Sampling(num_samples=2))
    value = match(shown, users.wants)
    rows.append(Row("inferring", f"wants shown, from {text}", value, ideal))
  prompt = histories(loaded, users)["images and titles"]
  loss = code_loss(loaded, prompt, users.following)
  ideal = allowed.next_item_entropy(users) / loaded.model.image_tokens
  return [
    *rows,
    Row("inferring", "nats a code of the next item", loss, ideal),
  ]


def histories(loaded: Loaded, users: allowed.Users) -> dict[str, Prompt]:
  """Returns prompts of histories: whole, and with a part of them only."""
  named = [titles(items) for items in users.items]
  images = world.render(world.attributes(users.items))
  processor, model = loaded.processor, loaded.model
  whole = [processor.prompt_ids(names, INSTRUCTION) for names in named]
  unnamed = [
    processor.prompt_ids([""] * allowed.SHOWN, INSTRUCTION) for _ in named
  ]
  special = {model.image_id, model.boi_id, processor.eoi_id}
  words = [
    [token for token in row[:-1] if token not in special] + row[-1:]
    for row in whole
  ]
  return {
    "images and titles": prompts(loaded, whole, images),
    "titles": prompts(loaded, words, without_images(len(named))),
    "images": prompts(loaded, unnamed, images),
  }


def sampling_rows(loaded: Loaded, users: allowed.Users) -> list[Row]:
  """Measures guidance and temperature."""
  prompt = histories(loaded, users)["images and titles"]
  rows = []
  for guidance, temperature in (
    (1.0, 1.0),
    (1.5, 1.0),
    (2.0, 1.0),
    (3.0, 1.0),
    (5.0, 1.0),
    (1.0, 0.5),
  ):
    options = sampling.Sampling(
      num_samples=2, guidance=guidance, temperature=temperature
    )
    value = match(generate(loaded, prompt, options), users.wants)
    text = f"wants shown, guidance {guidance:g}, temperature {temperature:g}"
    # A distribution to the power of w: guidance of a perfect model, as its
    # unconditional branch is even in what a user may want.
    power = guidance / temperature
    rows.append(
      Row("sampling", text, value, allowed.sampled_match(users, power))
    )
  return rows


def match(shown: np.ndarray, wants: np.ndarray) -> float:
  """Returns the mean share of wants [U, 3] that shown [U, G, 5] meets."""
  wants = np.broadcast_to(wants[:, None], (*shown.shape[:2], wants.shape[-1]))
  return float(world.preference_match(shown, wants).mean())


def measure(loaded: Loaded, users: allowed.Users) -> list[Row]:
  """Returns all rows of a model."""
  return [
    *reading(loaded),
    *coding(loaded),
    *generating(loaded, users),
    *inferring(loaded, users),
    *sampling_rows(loaded, users),
  ]


def table(columns: dict[str, list[Row]]) -> str:
  """Returns rows of models, by name, as a table of Markdown."""
  lines = [
    f"| part | | {' | '.join(columns)} | a perfect model |",
    f"|---|---|{'---|' * len(columns)}---|",
  ]
  for rows in zip(*columns.values(), strict=True):
    values = " | ".join(f"{row.value:.3f}" for row in rows)
    first = rows[0]
    ideal = "" if np.isnan(first.allowed) else f"{first.allowed:.3f}"
    lines.append(f"| {first.part} | {first.what} | {values} | {ideal} |")
  return "\n".join(lines)


def main() -> None:
  """Prints the table."""
  users = allowed.simulate(flags.FLAGS.users)
  columns = {
    name: measure(load_generator(name, dtype="float32"), users)
    for name in flags.FLAGS.models
  }
  print(table(columns))


if __name__ == "__main__":
  flags.DEFINE_list(
    "models",
    ["tiny_base", "tiny_sft"],
    "HF folders, workdirs or bundled names.",
  )
  flags.DEFINE_integer("users", 512, "Held-out users.", 1)
  cli.run(main)
