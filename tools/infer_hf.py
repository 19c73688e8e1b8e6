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
import os
from pathlib import Path
import shutil
import sys
import tempfile

import numpy as np
import PIL.Image
import torch
import transformers
from transformers.image_utils import load_image

INSTRUCTION = "Draw the next item that this user will like."
QUESTION = "Describe the image."
# How published Janus checkpoints write one turn, for those without a template.
CHAT = """<|User|>: {% for part in messages[0]['content'] -%}
{%- if part['type'] == 'image' -%}
{{ ('' if loop.first else '\\n') + '<image_placeholder>\\n' }}
{%- else -%}
{%- set text = part['text'].lstrip() if loop.first else part['text'] -%}
{{ text.rstrip() if loop.last else text }}
{%- endif -%}
{%- endfor -%}
{{ '\\n\\n<|Assistant|>:' }}"""


def load(name, dtype="float32", device="cpu"):
  """Loads a model and its processor.

  Args:
    name: a folder in HF format, or a name on the hub.
    dtype: 'float32' or 'bfloat16', of everything but the image decoder.
    device: such as 'cpu' or 'cuda'.

  Raises:
    ValueError: it is no Janus model, or not all of one.
    OSError: files are missing.
  """
  kind = transformers.AutoConfig.from_pretrained(name).model_type
  if kind != "janus":
    raise ValueError(f"its model_type is {kind!r}; expected 'janus'")
  model, info = transformers.JanusForConditionalGeneration.from_pretrained(
    name,
    dtype=dtype,
    use_safetensors=True,
    output_loading_info=True,
    ignore_mismatched_sizes=True,  # to list them with the rest
  )
  # transformers would only warn, and leave random what is missing.
  problems = [f"{what}: {sorted(keys)}" for what, keys in info.items() if keys]
  if problems:
    raise ValueError(f"its tensors do not fit config.json; {problems}")
  model.model.vqmodel.float()  # small, and its rounding would be seen
  # By Pillow, as in training: torchvision resamples a little differently.
  processor = transformers.AutoProcessor.from_pretrained(name, backend="pil")
  processor.num_image_tokens = codes_per_image(model)
  return model.eval().to(device), processor


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
    chat_template=processor.chat_template or CHAT,
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
    # Without the prompt: as long, but padding in all places but those of the
    # first token, BOS, and of the last, begin-of-image, wherever they stand.
    kept = (ids == ids[:, :1]) | (ids == ids[:, -1:])
    pad = model.generation_config.pad_token_id
    branches.append(embed(ids.masked_fill(~kept, pad)))

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


def contact_sheet(rows, gap=2):
  """Returns rows of pictures, uint8 [n, S, S, 3] each, as one on white."""
  step = rows[-1].shape[1] + gap
  size = (len(rows) * step - gap, max(map(len, rows)) * step - gap, 3)
  sheet = np.full(size, 255, np.uint8)
  for i, row in enumerate(rows):
    for j, picture in enumerate(row):
      y, x = i * step, j * step
      sheet[y : y + step - gap, x : x + step - gap] = picture
  return sheet


def write(folders):
  """Writes new folders: {folder: {file name: picture, array or text}}.

  They appear when all of them are whole.

  Raises:
    OSError: one cannot be written.
  """
  parts = {}
  try:
    for folder, files in folders.items():
      folder = Path(folder).resolve()
      folder.parent.mkdir(parents=True, exist_ok=True)
      part = tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)
      part = parts[folder] = Path(part)
      part.chmod(0o755)  # mkdtemp's folders are for their owner only
      for name, value in files.items():
        if name.endswith(".png"):
          PIL.Image.fromarray(value).save(part / name)
        elif name.endswith(".npy"):
          np.save(part / name, value)
        else:
          (part / name).write_text(value, encoding="utf-8")
    for folder, part in parts.items():
      os.replace(part, folder)
  finally:
    for part in parts.values():
      shutil.rmtree(part, ignore_errors=True)


def unwritable(folder):
  """Says why a folder cannot be written, '' if it can."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    return f"{folder} exists and is not an empty folder; choose another"
  parent = next(parent for parent in folder.parents if parent.exists())
  if not (parent.is_dir() and os.access(parent, os.W_OK)):
    return f"{folder} cannot be written: {parent} is no folder open to you"
  return ""


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
  add("--titles", help="a title for each picture: 'A|B'; default: none")
  add("--mode", default="image", choices=("image", "text"))
  add("--prompt", help=f"default: {INSTRUCTION!r}, or {QUESTION!r}")
  add(
    "--out",
    required=True,
    help="folder for 0.png, ..., sheet.png or answer.txt",
  )
  add("--dump", help="folder for the arrays behind them")
  add("--num", type=int, default=4, help="images")
  add("--guidance", type=float, default=5.0, help="1 is without")
  add("--temperature", type=float, default=1.0)
  add("--top_k", type=int, default=0, help="0 keeps all codes")
  add("--top_p", type=float, default=1.0, help="1 keeps all codes")
  add("--greedy", action="store_true", help="take the likeliest always")
  add("--max_tokens", type=int, default=256, help="of an answer in words")
  add("--seed", type=int, default=0)
  add("--dtype", default="float32", choices=("float32", "bfloat16"))
  add(
    "--device", default="auto", help="cpu, cuda; auto is cuda if there is one"
  )
  args = parser.parse_args(argv)
  args.history = args.history.split(",") if args.history else []
  if args.titles is None:
    args.titles = [""] * len(args.history)
  else:
    args.titles = args.titles.split("|")
  problems = [
    f"--{name}={getattr(args, name)}: expected {expected}"
    for name, good, expected in (
      ("num", args.num >= 1, "at least 1"),
      ("guidance", abs(args.guidance) < np.inf, "a number, 1 for none"),
      (
        "temperature",
        0 < args.temperature < np.inf,
        "more than 0, or --greedy",
      ),
      ("top_k", args.top_k >= 0, "at least 0"),
      ("top_p", 0 < args.top_p <= 1, "more than 0 and at most 1"),
      ("max_tokens", args.max_tokens >= 1, "at least 1"),
    )
    if not good
  ]
  if len(args.titles) != len(args.history):
    problems.append(
      f"{len(args.titles)} titles for {len(args.history)} pictures: expected"
      " one each, as in --history=a.png,b.png --titles='A|B'"
    )
  if not args.history and not args.prompt:
    problems.append("nothing to go by: give --history, --prompt or both")
  folders = [Path(f).resolve() for f in (args.out, args.dump) if f]
  problems += filter(None, map(unwritable, folders))
  for a, b in (folders, folders[::-1]) if args.dump else ():
    if b.is_relative_to(a):
      problems.append(f"{b} is in {a}: expected --out and --dump side by side")
  if problems:
    raise ValueError("; ".join(problems))
  return args


def read_pictures(paths):
  """Opens pictures, upright and RGB.

  Raises:
    ValueError: names all files that are none.
  """
  pictures, problems = [], []
  for path in paths:
    try:
      pictures.append(load_image(PIL.Image.open(path)))
    except Exception as error:  # Pillow's formats raise many kinds
      problems.append(f"{path} is no image ({error})")
  if problems:
    raise ValueError("; ".join(problems))
  return pictures


def run(args):
  """Does what the command line says.

  Raises:
    ValueError: says what does not fit; nothing has been written.
    OSError: the same, for files.
  """
  pictures = read_pictures(args.history)
  device = args.device
  if device == "auto":
    device = "cuda" if torch.cuda.is_available() else "cpu"
  try:
    model, processor = load(args.model, args.dtype, device)
  except Exception as error:  # files can be wrong in very many ways
    raise ValueError(
      f"cannot load {args.model}: {error}; expected a whole Janus checkpoint in"
      " HF format, such as tools/export_hf.py makes of a run's folder"
    ) from None
  drawing = args.mode == "image"
  text = (args.prompt or (INSTRUCTION if drawing else QUESTION)).strip()
  prepare = drawing_prompt if drawing else question_prompt
  inputs = prepare(processor, args.titles, pictures, text)
  length = inputs["input_ids"].shape[1]
  length += codes_per_image(model) if drawing else args.max_tokens
  limit = model.config.text_config.max_position_embeddings
  if length > limit:
    raise ValueError(
      f"{len(pictures)} pictures, their titles and the answer take {length}"
      f" tokens; {args.model} holds {limit}: give fewer pictures"
    )
  seen = inputs.get("pixel_values")
  size = model.config.vision_config.image_size
  none = np.zeros((0, 3, size, size), np.float32)
  dump = {
    "prompt_ids.npy": inputs["input_ids"][0].numpy().astype(np.int32),
    "pixel_values.npy": none if seen is None else seen.numpy(),
  }
  options = {k: getattr(args, k) for k in ("temperature", "top_k", "top_p")}
  if drawing:
    codes = draw(
      model,
      inputs["input_ids"],
      seen,
      num=args.num,
      guidance=args.guidance,
      greedy=args.greedy,
      seed=args.seed,
      **options,
    )
    images = decode(model, codes)
    dump["codes.npy"] = codes.cpu().numpy().astype(np.int32)
    dump["images.npy"] = images
    files = {f"{i}.png": image for i, image in enumerate(images)}
    rows = [] if seen is None else [to_uint8(seen.permute(0, 2, 3, 1))]
    files["sheet.png"] = contact_sheet([*rows, images])
  else:
    torch.manual_seed(args.seed)
    tokens = answer(
      model,
      inputs,
      max_new_tokens=args.max_tokens,
      do_sample=not args.greedy,
      **({} if args.greedy else options),
    )
    dump["answer_ids.npy"] = tokens.cpu().numpy().astype(np.int32)
    text = processor.decode(tokens, skip_special_tokens=True).strip()
    files = {"answer.txt": text + "\n"}
    print(text)
  write({args.out: files} | ({args.dump: dump} if args.dump else {}))
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
