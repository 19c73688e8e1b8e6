"""Generates a user's next item, or answers a question about images.

    python tools/generate.py --model=DIR --history=a.png,b.png \
        --titles='red cup|blue cup' --out=DIR
    python tools/generate.py --model=DIR --prompt='a red cup' --out=DIR
    python tools/generate.py --model=DIR --mode=item --history=a.png --out=DIR
    python tools/generate.py --model=DIR --mode=text --history=a.png \
        --prompt='What is this?' --greedy --out=DIR

Modes: image; item, a title and its image, of models that were trained to give
both (model.answer = title_image); text, an answer in words.

--model is a folder in Hugging Face format, a workdir of a run, or the name of a
bundled model such as tiny_sft. DIR gets 0.png, 1.png, ... and sheet.png, with
titles titles.txt, or answer.txt; it appears when it is whole and not before.
--dump=DIR keeps the arrays behind them: prompt_ids.npy [T], pixel_values.npy
[n, 3, S, S] (what the vision tower got), codes.npy [num, I], images.npy
[num, S, S, 3] and title_ids.npy [num, W], -1 after a title, or answer_ids.npy.

tools/hf_inference has the same flags, refusals and prompts once more, in torch:
it is copied to where there is no genrec_jax, and this tool must not need torch.
"""

from collections.abc import Callable, Sequence
import functools
import math
from pathlib import Path
import time
from typing import Any, NamedTuple

from absl import flags

from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.files import unwritable, write_folders
from genrec_jax.runtime import cli, path_flags

# File name -> how to save it, given its path.
Files = dict[str, Callable[[Path], Any]]

INSTRUCTION = "Draw the next item that this user will like."
QUESTION = "Describe the image."

_MODEL = path_flags.path_flag("model", None, "What to load.", required=True)
_HISTORY = path_flags.paths_flag(
  "history", "Images, oldest first: a.png,b.png; a name may hold commas."
)
_TITLES = flags.DEFINE_string(
  "titles", None, "A title for each image, '|' between; by default none."
)
_MODE = flags.DEFINE_enum(
  "mode", "image", ["image", "item", "text"], "What to answer."
)
_PROMPT = flags.DEFINE_string(
  "prompt",
  None,
  "The instruction after the history, or the question; by default"
  f" the run's or {INSTRUCTION!r}, or {QUESTION!r}. Without a history: what to"
  " generate.",
)
_OUT = path_flags.path_flag(
  "out", None, "Folder to write, absent or empty.", required=True
)
_DUMP = path_flags.path_flag("dump", None, "Folder for arrays, as --out.")
_NUM = flags.DEFINE_integer("num", 4, "Images to generate.")
# How to sample, and what no checkpoint says otherwise.
_DEFAULTS = {"guidance": 5.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
_GUIDANCE = flags.DEFINE_float(
  "guidance",
  None,
  "Weight of classifier-free guidance of images; 1 is without. By default this"
  " and the next three are those of the run, or of a checkpoint's"
  f" generation_config.json, else {_DEFAULTS}; for text always the last.",
)
_TEMPERATURE = flags.DEFINE_float("temperature", None, "Divides the logits.")
_TOP_K = flags.DEFINE_integer("top_k", None, "Keep the k likeliest; 0: all.")
_TOP_P = flags.DEFINE_float(
  "top_p", None, "Keep the likeliest that together have this probability."
)
_SAMPLING = (_GUIDANCE, _TEMPERATURE, _TOP_K, _TOP_P)
_GREEDY = flags.DEFINE_bool("greedy", False, "Take the likeliest always.")
_TEXT_TOKENS, _TITLE_TOKENS = 256, 32
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens",
  None,
  f"Of an answer in words, by default {_TEXT_TOKENS}; of a title, by default"
  f" the run's or {_TITLE_TOKENS}.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.")
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "To compute in."
)


class Result(NamedTuple):
  """What a mode leaves."""

  files: Files
  arrays: dict[str, Any]  # for --dump
  done: str  # such as '4 images of 16 codes'
  names: str  # of the files


def main() -> None:
  """Does what the flags say."""
  titles = check()
  # JAX takes seconds to import: bad flags are reported sooner.
  import jax
  import numpy as np

  from genrec_jax.hf import load
  from genrec_jax.hf.processor import make_prompt

  history = open_images(_HISTORY.value)
  sampling, instruction = settings()
  handle = load.open_generator(_MODEL.value, dtype=_DTYPE.value)
  processor, of_image = handle.processor, _MODE.value != "text"
  default = instruction if of_image else QUESTION
  text = (_PROMPT.value or "").strip() or default
  write_ids = processor.prompt_ids if of_image else processor.question_ids
  ids = write_ids(titles, text)
  if _MODE.value == "item":  # which begins the image after its title
    ids = ids[: -len(processor.image_begin)]
  check_length(handle, len(ids))
  prompt = make_prompt(processor, ids, history)
  pixels = np.asarray(prompt.images[0])
  arrays = {  # for --dump, as torch would have them
    "prompt_ids": prompt.ids[0],
    "pixel_values": pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1,
  }

  # All that can be refused has been: now the weights, which take long.
  start = time.perf_counter()
  params = handle.read(param_dtype=_DTYPE.value)
  key = jax.random.key(_SEED.value)
  loaded, start = time.perf_counter() - start, time.perf_counter()
  if of_image:
    result = generate(handle, params, prompt, key, sampling, text, titles)
  else:
    sampling.pop("guidance")  # a question has no unconditional branch
    result = answer(handle, params, prompt, key, sampling)
  took = time.perf_counter() - start

  saved: Files = {
    f"{name}.npy": functools.partial(np.save, arr=array)
    for name, array in (arrays | result.arrays).items()
  }
  folders = [(Path(_OUT.value), result.files)]
  folders += [(Path(_DUMP.value), saved)] if _DUMP.value else []
  write_folders(folders)
  how = "greedy" if _GREEDY.value else f"seed {_SEED.value}"
  how += "".join(f", {name} {value:g}" for name, value in sampling.items())
  print(
    f"prompt: {len(ids)} tokens, {len(history)} images, {text!r}\n"
    f"{_MODE.value}, loaded in {loaded:.1f} s, {_DTYPE.value}: {result.done} in"
    f" {took:.1f} s with compiling, {how}\n"
    f"written: {result.names} in {_OUT.value}"
    + (f", arrays in {_DUMP.value}" if _DUMP.value else "")
  )


def check() -> list[str]:
  """Returns the history's titles, '' where an image has none.

  Raises:
    UserError: lists all invalid flags.
  """
  history, problems = _HISTORY.value, []
  titles = [""] * len(history)
  if _TITLES.value:
    titles = _TITLES.value.split("|")
  if len(titles) != len(history):
    problems.append(
      f"{len(titles)} titles and {len(history)} images: expected a title for"
      " each, as in --history=a.png,b.png --titles='A|B'"
    )
  if not history and not (_PROMPT.value or "").strip():
    problems.append("nothing to go by: give --history, --prompt or both")
  ranges = (
    (_NUM, lambda x: x >= 1, "at least 1"),
    (_GUIDANCE, math.isfinite, "a number, 1 for none"),
    (_TEMPERATURE, lambda x: 0 < x < math.inf, "more than 0, or --greedy"),
    (_TOP_K, lambda x: x >= 0, "at least 0, which keeps all"),
    (_TOP_P, lambda x: 0 < x <= 1, "more than 0 and at most 1"),
    (_MAX_TOKENS, lambda x: x >= 1, "at least 1"),
    (_SEED, lambda x: 0 <= x < 2**32, "at least 0 and less than 2**32"),
  )
  problems += [
    f"--{flag.name}={flag.value}: expected {expected}"
    for flag, good, expected in ranges
    if flag.value is not None and not good(flag.value)
  ]
  # Before a model is loaded for minutes, not when there is something to write.
  folders = [Path(flag.value) for flag in (_OUT, _DUMP) if flag.value]
  problems += filter(None, map(unwritable, folders))
  if len(folders) == 2 and folders[1].resolve() in folders[0].resolve().parents:
    problems.append("--out lies in --dump: expected the other way round")
  refuse("invalid flags:", problems)
  return titles


def refuse(head: str, problems: Sequence[str]) -> None:
  """Raises UserError for problems: one alone, or a list of them."""
  if len(problems) > 1:
    raise UserError(listed(head, list(problems)))
  if problems:
    raise UserError(problems[0])


def open_images(paths: Sequence[str]) -> list[Any]:
  """Opens images, upright and RGB.

  Raises:
    UserError: names all files that are none.
  """
  from genrec_jax.hf.processor import open_image

  images, problems = [], []
  for path in paths:
    try:
      images.append(open_image(path))
    except UserError as error:
      problems.append(str(error))
  refuse("images of the history:", problems)
  return images


def settings() -> tuple[dict[str, Any], str]:
  """Returns how to sample, by the names of the flags, and the instruction.

  As the flags say, else the run or the checkpoint (of images only), else the
  defaults.
  """
  from genrec_jax.hf import workdir_model

  said, instruction = workdir_model.sampling_settings(_MODEL.value)
  # What a checkpoint says is about images.
  theirs = _DEFAULTS | (said if _MODE.value != "text" else {})
  given = {flag.name: flag.value for flag in _SAMPLING}
  chosen = {k: theirs[k] if v is None else v for k, v in given.items()}
  return chosen, instruction or INSTRUCTION


def max_tokens() -> int:
  """Returns the most tokens of words; 0 in the mode of images."""
  from genrec_jax.hf import workdir_model

  if _MODE.value == "image":
    return 0
  if _MAX_TOKENS.value is not None:
    return _MAX_TOKENS.value
  if _MODE.value == "text":
    return _TEXT_TOKENS
  return workdir_model.title_tokens(_MODEL.value) or _TITLE_TOKENS


def check_length(handle: Any, prompt: int) -> None:
  """Refuses what the model's positions do not hold.

  Args:
    handle: the opened generator.
    prompt: its tokens.

  Raises:
    UserError: says how many images would fit.
  """
  images = len(_HISTORY.value)
  per_image = handle.processor.prompt_tokens
  most = handle.processor.max_positions
  answer = max_tokens()
  if _MODE.value == "item":
    answer += len(handle.processor.image_begin)
  if _MODE.value != "text":
    answer += handle.processor.num_image_tokens
  if prompt + answer <= most:
    return
  fit = (most - answer - prompt + images * per_image) // per_image
  advice = "shorten the prompt"
  if images:
    advice = f"give at most {fit} images" if fit > 0 else "give no images"
  if _MODE.value != "image":
    advice += ", or a smaller --max_tokens"
  raise UserError(
    f"a prompt of {prompt} tokens ({images} images of {per_image}) and an"
    f" answer of up to {answer} do not fit the {most} positions of"
    f" {_MODEL.value}: {advice}"
  )


def generate(
  handle: Any,
  params: Any,
  prompt: Any,
  key: Any,
  sampling_options: dict[str, Any],
  text: str,
  titles: Sequence[str],
) -> Result:
  """Generates items: codes [num, I] int32 and uint8 [num, S, S, 3].

  In the mode of items, titles, too: their words' ids [num, W] int32.
  """
  import jax
  import numpy as np

  from genrec_jax import sampling
  from genrec_jax.data import titles as titles_lib
  from genrec_jax.html.item_files import item_files
  from genrec_jax.models.pixels import to_uint8

  model, processor = handle.model, handle.processor
  options = sampling.Sampling(
    num_samples=_NUM.value, greedy=_GREEDY.value, **sampling_options
  )
  asked = {"answer": "title_image", "title_tokens": max_tokens()}
  wanted = None
  if _MODE.value == "item":
    wanted = sampling.Titles.from_options(asked, model, processor.end_ids)

  @jax.jit
  def compiled(params, prompt, key):
    rollout = sampling.sample_items(model, params, prompt, key, options, wanted)
    pixels = sampling.decode_images(model, params, rollout.codes)
    # On the device: four times fewer bytes come to the host.
    return rollout.codes[0], to_uint8(pixels[0]), rollout.title

  codes, images, title = jax.device_get(compiled(params, prompt, key))
  written: list[str] | None = None
  arrays = {"codes": codes, "images": images}
  if title is not None:
    tokens, words = title.tokens[0], title.words[0]  # [num, W] both
    arrays["title_ids"] = np.where(words, tokens, -1)
    decode = functools.partial(
      processor.tokenizer.decode, skip_special_tokens=True
    )
    written = titles_lib.texts(tokens, words, decode)
  names = "0.png" + (f" to {len(images) - 1}.png" if len(images) > 1 else "")
  return Result(
    item_files(text, titles, np.asarray(prompt.images[0]), images, written),
    arrays,
    f"{len(images)} images of {codes.shape[1]} codes",
    names + (", titles.txt" if written else "") + " and sheet.png",
  )


def answer(
  handle: Any,
  params: Any,
  prompt: Any,
  key: Any,
  sampling_options: dict[str, Any],
) -> Result:
  """Prints an answer in words: its tokens [n] int32, the end token too."""
  import jax
  import numpy as np

  from genrec_jax import sampling

  options = sampling.Sampling(greedy=_GREEDY.value, **sampling_options)
  processor = handle.processor

  @jax.jit
  def compiled(params, prompt, key):
    return sampling.answer(
      handle.model,
      params,
      prompt,
      key,
      options,
      end_ids=processor.end_ids,
      max_tokens=max_tokens(),
    )

  answers = compiled(params, prompt, key)
  tokens = np.asarray(answers.tokens)[0, 0][np.asarray(answers.mask)[0, 0]]
  words = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
  print(words or "(the model ended its turn without a word)")
  return Result(
    {"answer.txt": lambda path: path.write_text(words + "\n", "utf-8")},
    {"answer_ids": tokens},
    f"{len(tokens)} tokens of an answer",
    "answer.txt",
  )


if __name__ == "__main__":
  cli.run(main)
