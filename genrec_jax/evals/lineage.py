"""Models of one table: a checkpoint and those it was trained from."""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
from typing import Any

from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.prompts import PromptDataset
from genrec_jax.hf import load, locate
from genrec_jax.runtime import distributed
from genrec_jax.runtime import workdir as workdir_lib

# Rows of the table that a bundled checkpoint is by itself.
_BUNDLED = {"tiny_base": "base", "tiny_sft": "sft", "tiny_emu3": "sft"}


def lineage(checkpoint: str) -> list[tuple[str, str]]:
  """Returns (name, path) of the models that led to a checkpoint, itself last.

  A workdir's config names them: an RL run after SFT has models base, sft and
  rl, an SFT run base and sft. Bundled checkpoints carry their name; of any
  other folder nothing is known: 'model'. The folders may be gone since.
  """
  config: Mapping[str, Any] = {}
  if os.path.exists(os.path.join(checkpoint, workdir_lib.CONFIG)):
    config = workdir_lib.read_config(checkpoint)
  if "task" in config:  # the config of an HF folder has none
    return [*trained_from(config), (config["task"], checkpoint)]
  return [(_BUNDLED.get(checkpoint, "model"), checkpoint)]


def trained_from(config: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns (name, path) of the models that a config's run started from.

  The start of SFT is 'base' unless it is known to be something else; a start
  with the name of the run itself, SFT after SFT, is 'start'. `eval.base` is the
  base of a checkpoint that does not know its own.
  """
  # Recursive: the start may be a workdir with a start of its own.
  models = dict(lineage(config["model"]["checkpoint"]))
  if config["task"] == "sft" and "model" in models:
    models = {"base": models["model"]}
  base = config.get("eval", {}).get("base")
  if base and "base" not in models:
    models = {"base": base, **models}
  own = config["task"]  # the name that the run's own model takes in the table
  renamed = {"start" if k == own else k: path for k, path in models.items()}
  return list(renamed.items())


def existing(models: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
  """Returns the models whose folders still exist; prints which do not."""
  found = []
  for name, path in models:
    # A start that was deleted should not cost the evaluation of the rest.
    try:
      locate.resolve(path)
      found.append((name, path))
    except UserError as error:
      distributed.say(f"no row {name!r} in the table: {error}")
  return found


def open_models(
  models: Sequence[tuple[str, str]],
  like: load.CheckpointHandle,
  shardings: PyTree,
  **compute: Any,
) -> list[tuple[str, Callable[..., PyTree]]]:
  """Returns (name, function that reads the parameters) of each model.

  Args:
    models: (name, checkpoint).
    like: the model whose compiled functions and prompts serve all of them.
    shardings: of the parameters.
    **compute: options of `load.open_generator`, as `like` was opened with.

  Raises:
    UserError: lists the models of another architecture or vocabulary.
  """
  readers: list[tuple[str, Callable[[], PyTree]]] = []
  problems = []
  for name, path in models:
    opened = load.open_generator(path, **compute)
    # Equal configs have equal shapes, and dtype and remat, too.
    if opened.model != like.model:
      problems.append(f"{name}, {path}: {opened.model}")
    # Prompts are tokenized once, with the vocabulary of `like`.
    elif _vocabulary(opened) != _vocabulary(like):
      problems.append(f"{name}, {path}: another vocabulary")
    readers.append((name, functools.partial(opened.read, shardings)))
  if problems:
    raise UserError(
      listed(
        f"these models cannot be compared with {like.source}: expected its"
        f" vocabulary and its architecture, {like.model}; found:",
        problems,
      )
    )
  return readers


def _vocabulary(opened: load.CheckpointHandle) -> dict[str, int]:
  return opened.processor.tokenizer.get_vocab()


def warnings(
  checkpoint: str, encoders: Sequence[str], dataset: Dataset
) -> list[str]:
  """Returns a line for each reason why the run's numbers mean nothing.

  The bundled tiny models have seen the synthetic world only, and only its data
  sets record what users want.

  Args:
    checkpoint: of the generator.
    encoders: checkpoints of CLIP and of the judges.
    dataset: the data set that is evaluated on.
  """
  # `wants` is the mark of the synthetic world.
  if not len(dataset.users) or "wants" in dataset.users[0]:
    return []
  if isinstance(dataset, PromptDataset) and dataset.of_world:
    return []
  # A model that grew from a tiny one is tiny as well.
  paths = [path for _, path in lineage(checkpoint)]
  paths += encoders
  tiny = [path for path in dict.fromkeys(paths) if locate.is_bundled(path)]
  if not tiny:
    return []
  return [
    f"{', '.join(tiny)}: bundled tiny models that know the synthetic world"
    f" only; on {dataset.path} their images, scores and rewards mean"
    " nothing. Give real ones: --config.model.checkpoint=DIR"
    " --config.clip.checkpoint=DIR --config.eval.judges=\"('DIR',)\""
  ]
