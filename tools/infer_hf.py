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
import json
import math
import os
from pathlib import Path
import sys
import tempfile

import huggingface_hub
import numpy as np
import PIL.Image
import safetensors
import torch
import transformers
from transformers.image_utils import load_image

INSTRUCTION = "Draw the next item that this user will like."
QUESTION = "Describe the image."


def load(name, dtype="float32", device="cpu"):
  """Loads a model and its processor.

  Args:
    name: a folder in HF format, or a name on the hub.
    dtype: 'float32' or 'bfloat16', of everything but the image decoder.
    device: such as 'cpu' or 'cuda'.

  Raises:
    ValueError: what it is not, or all that does not fit in its files.
  """
  folder = Path(name)
  if not folder.is_dir():
    kinds = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=kinds))
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
  model.generation_config.update(**ids)
  processor.num_image_tokens = codes_per_image(model)
  return model.eval().to(device), processor


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
    pictures: Pillow images, RGB; may be none.
    instruction: what to draw.

  Returns:
    input_ids [1, T], ending with begin-of-image, and with pictures pixel_values
    [n, 3, S, S].
  """
  items = "".join(
    f"{plain(processor, title)}{processor.image_token}\n" for title in titles
  )
  text = f"<|User|>: {items}{plain(processor, instruction)}\n\n<|Assistant|>:"
  return processor(
    text=text,
    images=pictures or None,
    generation_mode="image",
    return_tensors="pt",
  )


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
  return processor(text=text, images=pictures or None, return_tensors="pt")


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
  out = language(inputs_embeds=torch.cat(branches), use_cache=True)
  cache = out.past_key_values
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
      inputs_embeds=torch.cat([step] * len(branches)),
      past_key_values=cache,
      use_cache=True,
    ).last_hidden_state[:, -1]


def unconditional_ids(model, ids):
  """Pads all tokens [1, T] but BOS and the last begin-of-image.

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


# The command line.


def read_pictures(paths):
  """Opens pictures, upright and RGB.

  Raises:
    ValueError: names all files that are none.
  """
  pictures, wrong = [], []
  for path in paths:
    try:
      pictures.append(load_image(PIL.Image.open(path)))
    except Exception as error:  # Pillow's formats raise many kinds
      wrong.append(f"{path} ({error})")
  if wrong:
    raise ValueError(f"no images, give others: {'; '.join(wrong)}")
  return pictures


def contact_sheet(rows):
  """Returns rows of pictures, uint8 [n, S, S, 3] each, as one on white."""
  size, most = rows[0].shape[1], max(map(len, rows))
  sheet = np.full((len(rows), size, most, size, 3), 255, np.uint8)
  for place, row in zip(sheet, rows, strict=True):
    place[:, : len(row)] = row.swapaxes(0, 1)
  return sheet.reshape(len(rows) * size, most * size, 3)


def save(folder, files):
  """Writes {file name: picture, array or text}; the folder appears whole."""
  folder = Path(folder).resolve()
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
    part = Path(temporary, "part")
    part.mkdir()
    for name, value in files.items():
      if name.endswith(".png"):
        PIL.Image.fromarray(value).save(part / name)
      elif name.endswith(".npy"):
        np.save(part / name, value)
      else:
        (part / name).write_text(value, encoding="utf-8")
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
  add("--model", required=True, help="folder in HF format, or a hub name")
  add("--history", default="", help="pictures, oldest first: a.png,b.png")
  add("--titles", help="one for each picture: 'A|B'; default: none")
  add("--mode", default="image", choices=("image", "text"))
  add("--prompt", help=f"default: {INSTRUCTION!r}, or {QUESTION!r}")
  add("--out", required=True, help="folder to write, absent or empty")
  add("--dump", help="folder for the arrays behind it")
  add("--num", type=int, default=4, help="images")
  add("--guidance", type=float, default=5.0, help="1 is without")
  add("--temperature", type=float, default=1.0)
  add("--top_k", type=int, default=0, help="0 keeps all codes")
  add("--top_p", type=float, default=1.0, help="1 keeps all codes")
  add("--greedy", action="store_true", help="take the likeliest always")
  add("--max_tokens", type=int, default=256, help="of an answer in words")
  add("--seed", type=int, default=0)
  add("--dtype", default="float32", choices=("float32", "bfloat16"))
  add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
  args = parser.parse_args(argv)
  args.history = args.history.split(",") if args.history else []
  blank = [""] * len(args.history)
  args.titles = args.titles.split("|") if args.titles else blank
  folders = [Path(f).resolve() for f in (args.out, args.dump) if f]
  expected = {
    "--history, --prompt or both": bool(args.history or args.prompt),
    f"{len(blank)} --titles, not {len(args.titles)}, as in 'A|B'": (
      len(args.titles) == len(blank)
    ),
    "--num at least 1": args.num >= 1,
    "--guidance a number": math.isfinite(args.guidance),
    "--temperature more than 0": 0 < args.temperature < math.inf,
    "--top_k at least 0": args.top_k >= 0,
    "--top_p more than 0, at most 1": 0 < args.top_p <= 1,
    "--max_tokens at least 1": args.max_tokens >= 1,
    "--seed in 0 .. 2**32 - 1": 0 <= args.seed < 2**32,
    "--out and --dump absent or empty, where you may write": (
      all(map(writable, folders))
    ),
    "--out not in --dump": not folders[0].is_relative_to(folders[-1])
    or not folders[1:],
  }
  wrong = [text for text, good in expected.items() if not good]
  if wrong:
    raise ValueError(f"expected {'; '.join(wrong)}")
  return args


def writable(folder):
  """Tells whether `save` can make a folder, and would replace nothing."""
  parent = next(parent for parent in folder.parents if parent.exists())
  try:
    tempfile.TemporaryDirectory(prefix=".", dir=parent).cleanup()
    return not (folder.exists() and any(folder.iterdir()))
  except OSError:
    return False


def run(args):
  """Does what the command line says.

  Raises:
    ValueError: says what does not fit; nothing has been written.
    OSError: the same, for files.
  """
  pictures = read_pictures(args.history)
  try:
    model, processor = load(args.model, args.dtype, args.device)
  except Exception as error:  # files can be wrong in very many ways
    raise ValueError(
      f"cannot load {args.model}: {error} (expected a whole Janus checkpoint,"
      " a folder in HF format such as tools/export_hf.py makes of a run's"
      " folder, or a hub name)"
    ) from None
  drawing = args.mode == "image"
  prepare = drawing_prompt if drawing else question_prompt
  text = (args.prompt or (INSTRUCTION if drawing else QUESTION)).strip()
  prompt = prepare(processor, args.titles, pictures, text)
  ids, seen = prompt["input_ids"], prompt.get("pixel_values")
  length = ids.shape[1]
  length += codes_per_image(model) if drawing else args.max_tokens
  limit = model.config.text_config.max_position_embeddings
  if length > limit:
    raise ValueError(
      f"{len(pictures)} pictures, their titles and the answer take {length}"
      f" tokens; {args.model} holds {limit}: give fewer pictures or words"
    )
  size = model.config.vision_config.image_size
  none = np.zeros((0, 3, size, size), np.float32)
  arrays = {
    "prompt_ids.npy": ids[0].int().numpy(),
    "pixel_values.npy": none if seen is None else seen.numpy(),
  }
  options = {k: getattr(args, k) for k in ("temperature", "top_k", "top_p")}
  if drawing:
    options |= {"num": args.num, "guidance": args.guidance, "seed": args.seed}
    codes = draw(model, ids, seen, greedy=args.greedy, **options)
    images = decode(model, codes)
    arrays["codes.npy"] = codes.cpu().int().numpy()
    arrays["images.npy"] = images
    files = {f"{i}.png": image for i, image in enumerate(images)}
    rows = [] if seen is None else [to_uint8(seen.permute(0, 2, 3, 1))]
    files["sheet.png"] = contact_sheet([*rows, images])
  else:
    torch.manual_seed(args.seed)
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
  save(args.out, files)
  if args.dump:
    save(args.dump, arrays)
  print(f"written: {', '.join(files)} in {args.out}")


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
