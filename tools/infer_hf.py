"""Draws a user's next item with torch and transformers alone.

    python tools/infer_hf.py --model=DIR --history=a.png,b.png \
        --titles='red cup|blue cup' --out=DIR

`JanusForConditionalGeneration.generate` draws from text only. `draw` below also
sees pictures: the user's history, oldest first, each behind its title. Copy
what is above "The command line": it needs nothing else of this project.

DIR gets 0.png, 1.png, ... and sheet.png, or with --mode=text answer.txt. --dump
keeps the arrays behind them: prompt_ids.npy [T], pixel_values.npy [n, 3, S, S],
codes.npy [num, I] and images.npy [num, S, S, 3], or answer_ids.npy.
"""

import argparse
import contextlib
import csv
import inspect
import json
import math
import os
from pathlib import Path
import sys
import tempfile

import huggingface_hub
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import safetensors
import torch
import transformers

INSTRUCTION = "Draw the next item that this user will like."
QUESTION = "Describe the image."
# How to sample, where no checkpoint says otherwise.
DEFAULTS = {"guidance": 5.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
# What published Janus checkpoints make of one user's turn, for those that bring
# no template of their own.
CHAT = """<|User|>: {% for part in messages[0]['content'] -%}
{%- if part['type'] == 'image' -%}
{{ ('' if loop.first else '\\n') + '<image_placeholder>\\n' }}
{%- else -%}
{%- set text = part['text'].lstrip() if loop.first else part['text'] -%}
{{ text.rstrip() if loop.last else text }}
{%- endif -%}
{%- endfor -%}
{{ '\\n\\n<|Assistant|>:' }}"""
# Text in a PNG is not needed, but Pillow refuses an image for 1 MB of it.
PIL.PngImagePlugin.MAX_TEXT_CHUNK = PIL.PngImagePlugin.MAX_TEXT_MEMORY


def load(name, dtype="float32", device="cpu"):
  """Loads a model and its processor.

  Args:
    name: a folder in HF format, or a name on the hub.
    dtype: 'float32' or 'bfloat16', of everything but the image decoder.
    device: such as 'cpu' or 'cuda'.

  Raises:
    ValueError: what it is not, or all that does not fit in its files.
  """
  folder = local_folder(name)
  config = transformers.AutoConfig.from_pretrained(folder)
  if config.model_type != "janus":
    raise ValueError(
      f"config.json has model_type {config.model_type!r}; expected 'janus'"
    )
  check_tensors(folder, config)
  try:
    # By Pillow, as in training: torchvision resamples a little differently.
    processor = transformers.AutoProcessor.from_pretrained(
      folder, backend="pil"
    )
    ids = special_ids(folder, config, processor)
  except Exception as error:  # these files can be wrong in very many ways
    raise ValueError(
      f"tokenizer*.json or preprocessor_config.json: {error}; take these files"
      " of the same Janus checkpoint"
    ) from None
  model = transformers.JanusForConditionalGeneration.from_pretrained(
    folder, dtype=dtype, use_safetensors=True
  )
  model.model.vqmodel.float()  # small, and its rounding would be seen
  for key, value in ids.items():
    setattr(model.generation_config, key, value)
  tokenizer = processor.tokenizer
  if tokenizer.bos_token is None:  # for the prompts below
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(ids["bos_token_id"])
  processor.chat_template = first(
    processor.chat_template, tokenizer.chat_template, CHAT
  )
  processor.num_image_tokens = codes_per_image(model)
  return model.eval().to(device), processor


def local_folder(name):
  """Returns the folder of a model: `name` itself, or what the hub has by it."""
  if Path(name).is_dir():
    return Path(name)
  kinds = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
  return Path(huggingface_hub.snapshot_download(name, allow_patterns=kinds))


def special_ids(folder, config, processor):
  """Returns a checkpoint's special ids as settings of `generate`.

  They come from generation_config.json, else config.json, else the tokenizer,
  wherever they stand in a prompt.

  Raises:
    ValueError: one is nowhere, or these files differ about it.
  """
  generation, written = (
    json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    for name in ("generation_config.json", "config.json")
  )
  tokenizer, ids = processor.tokenizer, {}
  for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    ids[name] = first(
      generation.get(name),
      written.get(name),
      # Not `config`, which fills in what is not written with other models' ids.
      (written.get("text_config") or {}).get(name),
      getattr(tokenizer, name),
    )
    if ids[name] is None:
      raise ValueError(f"no {name}")
  begin = tokenizer.convert_tokens_to_ids(processor.image_start_token)
  ids["generation_kwargs"] = {"boi_token_id": begin}
  extra = generation.get("generation_kwargs") or {}
  begin_there = first(
    extra.get("boi_token_id"), generation.get("boi_token_id"), begin
  )
  image_id = tokenizer.convert_tokens_to_ids(processor.image_token)
  if tokenizer.bos_token_id not in (None, ids["bos_token_id"]):
    raise ValueError(
      f"bos_token_id is {tokenizer.bos_token_id} in the tokenizer and"
      f" {ids['bos_token_id']} in config.json or generation_config.json"
    )
  for token, here, there, file in (
    # Pictures would go unseen.
    (processor.image_token, image_id, config.image_token_id, "config.json"),
    (processor.image_start_token, begin, begin_there, "generation_config.json"),
  ):
    if here != there:
      raise ValueError(f"{token} is {here}, in {file} {there}")
  return ids


def first(*values):
  """Returns the first value that is not None, or None."""
  return next((value for value in values if value is not None), None)


def check_tensors(folder, config):
  """Compares a folder's safetensors, by their headers, with its config.json.

  transformers would only warn, and leave random what is missing.

  Raises:
    ValueError: lists all that differs.
  """
  with torch.device("meta"):
    model = transformers.JanusForConditionalGeneration(config)
  fits = {k: f"float {list(v.shape)}" for k, v in model.state_dict().items()}
  optional = model.all_tied_weights_keys
  single, index = "model.safetensors", "model.safetensors.index.json"
  sharded = (folder / index).exists()
  places = dict.fromkeys(fits.keys() - optional, index if sharded else single)
  if sharded:
    try:
      places |= json.loads((folder / index).read_text())["weight_map"]
    except (KeyError, TypeError, ValueError):
      raise ValueError(f"{index} has no weight_map; get it again") from None
  expected = {
    (file, name): fits.get(name, "by the index alone")
    for name, file in places.items()
  }
  files = {*places.values()} - {index}
  if (folder / single).exists():
    files.add(single)  # transformers would take it, whatever the index says
  found, problems = {}, []
  for file in sorted(files):
    try:
      with safetensors.safe_open(folder / file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118  (it cannot be iterated)
          tensor = opened.get_slice(name)
          kind = tensor.get_dtype()
          kind = "float" if "F" in kind else kind
          found[file, name] = f"{kind} {tensor.get_shape()}"
    except (OSError, safetensors.SafetensorError) as error:
      problems.append(f"{file} is missing or not whole ({error})")
      found |= {key: expected[key] for key in expected if key[0] == file}
  for file, name in sorted(expected.keys() | found.keys()):
    want = expected.get((file, name), "nothing")
    have = found.get((file, name), "absent")
    if want != have and name not in optional:
      problems.append(f"{file}: {name} is {have}, expected {want}")
  if problems:
    raise ValueError(
      f"{'; '.join(problems[:20])}; {len(problems)} in all; get the files"
      " again, as safetensors, with the config.json that belongs to them"
    )


def codes_per_image(model):
  """Returns I: codes to draw an image with, and tokens to read one by."""
  vision = model.config.vision_config
  return (vision.image_size // vision.patch_size) ** 2


def drawing_prompt(processor, titles, pictures, instruction=INSTRUCTION):
  """Prepares the drawing of an image after a history.

  Args:
    processor: from `load`.
    titles: of the pictures, oldest first; '' where one has none.
    pictures: from `open_picture`; may be none.
    instruction: what to draw.

  Returns:
    input_ids [1, T], ending with begin-of-image, and with pictures pixel_values
    [n, 3, S, S].
  """
  items = "".join(
    f"{plain(processor, title)}{processor.image_token}\n" for title in titles
  )
  text = f"<|User|>: {items}{plain(processor, instruction)}\n\n<|Assistant|>:"
  return encoded(processor, text, pictures, "image")


def question_prompt(processor, titles, pictures, question=QUESTION):
  """Prepares an answer in words; arguments as those of `drawing_prompt`."""
  parts = []
  for title in titles:
    if title:
      parts.append({"type": "text", "text": plain(processor, title)})
    parts.append({"type": "image"})
  parts.append({"type": "text", "text": plain(processor, question)})
  text = processor.apply_chat_template(
    [{"role": "user", "content": parts}],
    add_generation_prompt=True,
  )
  return encoded(processor, text, pictures, "text")


def encoded(processor, text, pictures, mode):
  """Returns the inputs of a text and its pictures, with one BOS before them.

  As in training: tokenizers differ in whether they add BOS, or an end token, by
  themselves, and chat templates in whether they spell BOS out.
  """
  tokenizer = processor.tokenizer
  inputs = processor(
    text=[text.removeprefix(tokenizer.bos_token)],  # 5.20 takes lists only
    images=pictures or None,
    generation_mode=mode,
    add_special_tokens=False,
    return_tensors="pt",
  )
  ones = torch.ones_like(inputs["input_ids"][:, :1])
  for name, value in (
    ("input_ids", tokenizer.bos_token_id * ones),
    ("attention_mask", ones),
  ):
    inputs[name] = torch.cat([value, inputs[name]], 1)
  return inputs


def plain(processor, text):
  """Takes out special tokens spelt out in a text: they would act as such."""
  for token in processor.tokenizer.get_added_vocab():
    text = text.replace(token, " ")
  return text


@torch.no_grad()
def draw(
  model,
  input_ids,
  pixel_values=None,
  *,
  num=4,
  guidance=5.0,
  temperature=1.0,
  top_k=0,
  top_p=1.0,
  greedy=False,
  seed=0,
):
  """Draws images for one prompt, with pictures in it or without.

  Args:
    model: from `load`.
    input_ids: [1, T], see `drawing_prompt`.
    pixel_values: [n, 3, S, S], see `drawing_prompt`.
    num: how many images.
    guidance: w of l = u + w (c - u), from the logits c with and u without the
      prompt (arXiv 2207.12598); 1 leaves u out.
    temperature: divides the logits.
    top_k: keep the k likeliest codes; 0 keeps all.
    top_p: keep the likeliest codes that together reach this probability.
    greedy: take the likeliest code; all images are then the same.
    seed: of the sampling.

  Returns:
    Codes [num, I] for `decode`.
  """
  ids, embed = input_ids.to(model.device), model.get_input_embeddings()
  branches = [embed(ids)]
  if pixel_values is not None:
    features = model.model.get_image_features(
      pixel_values.to(model.device, model.dtype), return_dict=True
    ).pooler_output
    slots = (ids == model.config.image_token_id)[..., None]
    branches = [branches[0].masked_scatter(slots, features)]
  if guidance != 1:
    branches.append(embed(unconditional_ids(model, ids)))

  # The prompt is read once; each sample goes on from a copy of its cache.
  language = model.model.language_model
  cached = new_cache(language)
  out = language(inputs_embeds=torch.cat(branches), use_cache=True, **cached)
  for cache in cached.values():
    cache.batch_repeat_interleave(num)
  hidden = out.last_hidden_state[:, -1].repeat_interleave(num, 0)

  generator = torch.Generator(model.device).manual_seed(seed)
  codes = []
  while True:
    logits = model.model.generation_head(hidden).float()
    if guidance != 1:
      conditional, unconditional = logits.chunk(2)
      logits = unconditional + guidance * (conditional - unconditional)
    if greedy:
      codes.append(logits.argmax(-1))
    else:
      probs = probabilities(logits, temperature, top_k, top_p)
      codes.append(torch.multinomial(probs, 1, generator=generator)[:, 0])
    if len(codes) == codes_per_image(model):
      return torch.stack(codes, -1)
    step = model.prepare_embeddings_for_image_generation(codes[-1][:, None])
    hidden = language(
      inputs_embeds=torch.cat([step] * len(branches)), use_cache=True, **cached
    ).last_hidden_state[:, -1]


def new_cache(language):
  """Returns an empty cache as the argument that takes it.

  Which transformers 5.20 calls past_key_values, and later ones cache.
  """
  known = inspect.signature(language.forward).parameters
  name = "cache" if "cache" in known else "past_key_values"
  return {name: transformers.DynamicCache(config=language.config)}


def unconditional_ids(model, ids):
  """Pads all tokens [P, T] but BOS and the last begin-of-image.

  As DeepSeek's generation_inference.py does with prompts without images. (The
  `generate` of transformers, which knows no others, keeps every begin-of-image:
  with history images they would tell how many items the user has.)
  """
  settings = model.generation_config
  begins = ids == settings.generation_kwargs["boi_token_id"]
  last = begins & (begins.flip(1).cumsum(1).flip(1) == 1)
  kept = (ids == settings.bos_token_id) | last
  return ids.masked_fill(~kept, settings.pad_token_id)


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
  """Returns the distribution [..., C] that codes are sampled from."""
  logits = logits / temperature
  if top_k:
    floor = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
    logits = logits.masked_fill(logits < floor, -torch.inf)
  if top_p < 1:
    ordered = logits.sort(-1, descending=True).values
    probs = ordered.softmax(-1)
    reached = probs.cumsum(-1) - probs >= top_p  # by the codes before
    floor = ordered.masked_fill(reached, torch.inf).amin(-1, keepdim=True)
    logits = logits.masked_fill(logits < floor, -torch.inf)
  return logits.softmax(-1)


def answer(model, inputs, **options):
  """Answers in words, by transformers' own `generate` and its options.

  Args:
    model: from `load`.
    inputs: from `question_prompt`.
    **options: such as max_new_tokens and do_sample.

  Returns:
    Token ids [n]; the processor's `decode` makes text of them.
  """
  inputs = inputs.to(model.device)
  if "pixel_values" in inputs:
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
  ids = model.generate(**inputs, generation_mode="text", **options)
  return ids[0, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def decode(model, codes):
  """Makes pictures of codes [num, I]: uint8 [num, S, S, 3]."""
  # One at a time: the decoder's feature maps are far larger than its pictures.
  pixels = torch.cat([model.decode_image_tokens(one[None]) for one in codes])
  return to_uint8(pixels)


def to_uint8(pixels):
  """Returns pixels in [-1, 1] as numpy uint8."""
  pixels = (pixels.cpu().float() / 2 + 0.5).clamp(0, 1)
  return (255 * pixels).round().to(torch.uint8).numpy()


def open_picture(path):
  """Opens a picture as it is opened for training: upright, RGB, over white.

  Raises:
    ValueError: its values are floating-point. Pillow raises many other kinds.
  """
  turns = PIL.Image.Transpose
  with PIL.Image.open(path) as opened:
    image = to_rgb(opened)
    try:
      orientation = opened.getexif().get(274)
    except Exception:  # damaged, but the picture need not be
      orientation = 1
  turn = {
    2: turns.FLIP_LEFT_RIGHT,
    3: turns.ROTATE_180,
    4: turns.FLIP_TOP_BOTTOM,
    5: turns.TRANSPOSE,
    6: turns.ROTATE_270,
    7: turns.TRANSVERSE,
    8: turns.ROTATE_90,
  }.get(orientation)
  return image if turn is None else image.transpose(turn)


def to_rgb(image):
  """Converts an opened picture of any mode, as genrec_jax/data/images.py."""
  mode, key = image.mode, image.info.get("transparency")
  stored = image.tile[0][3] if getattr(image, "tile", None) else ""
  if mode == "F":
    raise ValueError("floating-point values")
  if mode == "I" or mode.startswith("I;16"):
    values = np.asarray(image.convert("I"))
    image = PIL.Image.fromarray((values.clip(0, 65535) // 257).astype("u1"))
    if key is not None:
      image = image.convert("LA")
      alpha = np.where(values == key, 0, 255).astype("u1")
      image.putalpha(PIL.Image.fromarray(alpha))
  elif key is not None and stored in ("L;2", "L;4"):
    image.info["transparency"] = key * (85 if stored == "L;2" else 17)
  elif key is not None and stored == "RGB;16B":
    image.info["transparency"] = tuple(value >> 8 for value in key)
  if image.mode == "La":
    image = image.convert("LA")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image)
  return image.convert("RGB")


# The command line.


def read_pictures(paths):
  """Opens pictures, upright and RGB.

  Raises:
    ValueError: names all files that are none.
  """
  pictures, wrong = [], []
  for path in paths:
    try:
      pictures.append(open_picture(path))
    except Exception as error:  # Pillow's formats raise many kinds
      missing = isinstance(error, FileNotFoundError)
      wrong.append(
        f"no image {path}: expected the path of a file"
        if missing
        else f"{path} cannot be read as an image ({error})"
      )
  if wrong:
    raise ValueError("; ".join(wrong))
  return pictures


def check_length(args, model, prompt):
  """Refuses what the model's positions do not hold.

  Raises:
    ValueError: says how many images would fit.
  """
  images, per_image = len(args.history), codes_per_image(model) + 2
  drawing = args.mode == "image"
  answer = codes_per_image(model) if drawing else args.max_tokens
  most = model.config.text_config.max_position_embeddings
  if prompt + answer <= most:
    return
  fit = (most - answer - prompt + images * per_image) // per_image
  advice = "shorten the prompt"
  if images:
    advice = f"give at most {fit} images" if fit > 0 else "give no images"
  if not drawing:
    advice += ", or a smaller --max_tokens"
  raise ValueError(
    f"a prompt of {prompt} tokens ({images} images of {per_image}) and an"
    f" answer of up to {answer} do not fit the {most} positions of"
    f" {args.model}: {advice}"
  )


def contact_sheet(rows):
  """Returns rows of pictures, uint8 [n, S, S, 3] each, as one on white."""
  size, most = rows[0].shape[1], max(map(len, rows))
  sheet = np.full((len(rows), size, most, size, 3), 255, np.uint8)
  for place, row in zip(sheet, rows, strict=True):
    place[:, : len(row)] = row.swapaxes(0, 1)
  return sheet.reshape(len(rows) * size, most * size, 3)


def save(folders):
  """Writes {folder: {file name: image, array or text}}, all of it or nothing.

  Folders appear when all is written; one may lie in another.

  Raises:
    OSError: one cannot be written.
  """
  with contextlib.ExitStack() as stack:
    parts = {}
    for folder, files in folders.items():
      folder = Path(folder).resolve()
      outer = next(filter(folder.is_relative_to, parts), None)
      if outer:
        part = parts[outer] / folder.relative_to(outer)
        part.mkdir(parents=True, exist_ok=True)
      else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".", dir=folder.parent)
        part = Path(stack.enter_context(temporary), "part")
        part.mkdir()
        parts[folder] = part
      for name, value in files.items():
        if name.endswith(".png"):
          PIL.Image.fromarray(value).save(part / name)
        elif name.endswith(".npy"):
          np.save(part / name, value)
        else:
          (part / name).write_text(value, encoding="utf-8")
    for folder, part in parts.items():
      os.replace(part, folder)


def parse(argv):
  """Reads the command line.

  Raises:
    ValueError: says all that is wrong with it.
  """
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.error = fail
  add = parser.add_argument
  add("--model", type=home, required=True, help="HF-format folder or hub name")
  add(
    "--history",
    type=split_paths,
    default=[],
    help="images, oldest first: a.png,b.png; a name may hold commas",
  )
  add("--titles", help="one for each image: 'A|B'; default: none")
  add("--mode", default="image", choices=("image", "text"))
  add("--prompt", help=f"default: {INSTRUCTION!r}, or {QUESTION!r}")
  add("--out", type=home, required=True, help="folder, absent or empty")
  add("--dump", type=home, help="folder for the arrays behind it")
  add("--num", type=int, default=4, help="images")
  add(
    "--guidance",
    type=float,
    help="1 is without; by default this and the next three are those of the"
    f" checkpoint's generation_config.json, else {DEFAULTS}; for text always"
    " the last",
  )
  add("--temperature", type=float, help="divides the logits")
  add("--top_k", type=int, help="0 keeps all codes")
  add("--top_p", type=float, help="1 keeps all codes")
  add("--greedy", nargs="?", type=boolean, const=True, default=False)
  add("--nogreedy", dest="greedy", action="store_false")
  add("--max_tokens", type=int, default=256, help="of an answer in words")
  add("--seed", type=int, default=0)
  add("--dtype", default="float32", choices=("float32", "bfloat16"))
  add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
  args = parser.parse_args(argv)
  args.prompt = (args.prompt or "").strip()
  blank = [""] * len(args.history)
  args.titles = args.titles.split("|") if args.titles else blank
  problems = []
  if len(args.titles) != len(blank):
    problems.append(
      f"{len(args.titles)} titles and {len(blank)} images: expected a title for"
      " each, as in --history=a.png,b.png --titles='A|B'"
    )
  if not (args.history or args.prompt):
    problems.append("nothing to go by: give --history, --prompt or both")
  for name, good, expected in (
    ("num", lambda x: x >= 1, "at least 1"),
    ("guidance", math.isfinite, "a number, 1 for none"),
    ("temperature", lambda x: 0 < x < math.inf, "more than 0, or --greedy"),
    ("top_k", lambda x: x >= 0, "at least 0, which keeps all"),
    ("top_p", lambda x: 0 < x <= 1, "more than 0 and at most 1"),
    ("max_tokens", lambda x: x >= 1, "at least 1"),
    ("seed", lambda x: 0 <= x < 2**32, "at least 0 and less than 2**32"),
  ):
    value = getattr(args, name)
    if value is not None and not good(value):
      problems.append(f"--{name}={value}: expected {expected}")
  folders = [Path(f) for f in (args.out, args.dump) if f]
  problems += filter(None, map(unwritable, folders))
  if len(folders) == 2 and folders[1].resolve() in folders[0].resolve().parents:
    problems.append("--out lies in --dump: expected the other way round")
  if problems:
    raise ValueError("; ".join(problems))
  return args


def home(path):
  """Returns a path with the home folder for the '~' it begins with."""
  full = os.path.expanduser(path)
  if full.startswith("~"):
    raise argparse.ArgumentTypeError(
      f"{path}: there is no home folder {full.split(os.sep)[0]}; a folder of"
      f" that name is ./{path}"
    )
  return full


def split_paths(text):
  """Splits 'a.png,b.png' at its commas, but for those of names that exist.

  As tools/generate.py: double quotes keep a name together, too, as in CSV.
  """
  parts, paths = next(csv.reader([text]), []), []
  while parts:
    names = [home(",".join(parts[:n])) for n in range(len(parts), 0, -1)]
    name = next(filter(os.path.exists, names), home(parts[0].strip()))
    count = len(parts) - names.index(name) if name in names else 1
    paths.append(name)
    parts = parts[count:]
  return paths


def boolean(text):
  """Reads what follows --greedy=."""
  values = {"true": True, "t": True, "1": True}
  values |= {"false": False, "f": False, "0": False}
  if text.lower() not in values:
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
  return values[text.lower()]


def unwritable(folder):
  """Says why a folder cannot be written, '' if it can."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    return f"{folder} exists and is not an empty folder; choose another"
  parent = next(
    parent for parent in folder.absolute().parents if parent.exists()
  )
  try:
    tempfile.TemporaryDirectory(prefix=".", dir=parent).cleanup()
  except OSError:
    return f"{folder} cannot be written: {parent} is not a folder open to you"
  return ""


def sampling_settings(folder, args):
  """Returns how to sample: of the flags, the checkpoint, or the defaults."""
  file, theirs = folder / "generation_config.json", {}
  if args.mode == "image" and file.exists():
    theirs = json.loads(file.read_text())
    theirs["guidance"] = theirs.get("guidance_scale")
  return {
    name: first(getattr(args, name), theirs.get(name), value)
    for name, value in DEFAULTS.items()
  }


def run(args):
  """Does what the command line says.

  Raises:
    ValueError: says what does not fit; nothing has been written.
    OSError: the same, for files.
  """
  pictures = read_pictures(args.history)
  try:
    folder = local_folder(args.model)
    options = sampling_settings(folder, args)
    model, processor = load(folder, args.dtype, args.device)
  except Exception as error:  # files can be wrong in very many ways
    raise ValueError(
      f"cannot load {args.model}: {error} (expected a whole Janus checkpoint,"
      " a folder in HF format such as tools/export_hf.py makes of a run's"
      " folder, or a hub name)"
    ) from None
  drawing = args.mode == "image"
  prepare = drawing_prompt if drawing else question_prompt
  text = args.prompt or (INSTRUCTION if drawing else QUESTION)
  prompt = prepare(processor, args.titles, pictures, text)
  ids, seen = prompt["input_ids"], prompt.get("pixel_values")
  check_length(args, model, ids.shape[1])
  size = model.config.vision_config.image_size
  none = np.zeros((0, 3, size, size), np.float32)
  arrays = {
    "prompt_ids.npy": ids[0].int().numpy(),
    "pixel_values.npy": none if seen is None else seen.numpy(),
  }
  if drawing:
    codes = draw(
      model,
      ids,
      seen,
      num=args.num,
      seed=args.seed,
      greedy=args.greedy,
      **options,
    )
    images = decode(model, codes)
    arrays["codes.npy"] = codes.cpu().int().numpy()
    arrays["images.npy"] = images
    files = {f"{i}.png": image for i, image in enumerate(images)}
    rows = [] if seen is None else [to_uint8(seen.permute(0, 2, 3, 1))]
    files["sheet.png"] = contact_sheet([*rows, images])
  else:
    torch.manual_seed(args.seed)
    options.pop("guidance")
    tokens = answer(
      model,
      prompt,
      max_new_tokens=args.max_tokens,
      do_sample=not args.greedy,
      **({} if args.greedy else options),
    )
    arrays["answer_ids.npy"] = tokens.cpu().int().numpy()
    words = processor.decode(tokens, skip_special_tokens=True).strip()
    files = {"answer.txt": words + "\n"}
    print(words or "(the model ended its turn without a word)")
  folders = {Path(args.out).resolve(): files}
  if args.dump:
    dump = Path(args.dump).resolve()
    folders[dump] = folders.get(dump, {}) | arrays
  save(folders)
  how = "greedy" if args.greedy else f"seed {args.seed}"
  how += "".join(f", {name} {value:g}" for name, value in options.items())
  print(
    f"prompt: {len(ids[0])} tokens, {len(pictures)} images, {text!r}\n"
    f"{args.model}, {args.dtype}: {how}\n"
    f"written: {', '.join(files)} in {args.out}"
  )


def fail(message):
  """Ends the program with one line."""
  sys.exit(f"error: {' '.join(str(message).split())}")


def main(argv=None):
  """Runs the command line; errors are one line and exit status 1."""
  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  try:
    run(parse(argv))
  except (OSError, ValueError, torch.OutOfMemoryError) as error:
    fail(error)


if __name__ == "__main__":
  main()
