"""Flags, the same as those of tools/generate.py.

The two define and check them apart: this folder is copied to where there is no
genrec_jax, and generate.py must not need torch.
"""

import argparse
from collections.abc import Sequence
import csv
import math
import os
from pathlib import Path
import sys
import tempfile
from typing import NoReturn

import torch

from .prompts import INSTRUCTION, QUESTION

# How to sample, where no checkpoint says otherwise.
DEFAULTS = {"guidance": 5.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


class Parser(argparse.ArgumentParser):
  """Ends in one line, as every other error of the tool does."""

  def error(self, message: str) -> NoReturn:
    """Ends the program."""
    fail(message)


def parse(
  argv: Sequence[str] | None, description: str = ""
) -> argparse.Namespace:
  """Reads the command line.

  Args:
    argv: flags; None means those of the process.
    description: for --help.

  Raises:
    ValueError: says all that is wrong with it.
  """
  args = _parser(description).parse_args(argv)
  # Defaults that depend on other flags; that of --prompt waits for the mode.
  args.prompt = (args.prompt or "").strip()
  if args.max_tokens is None:
    args.max_tokens = 256 if args.mode == "text" else 32
  blank = [""] * len(args.history)
  args.titles = args.titles.split("|") if args.titles else blank
  problems = _problems(args)
  if problems:
    raise ValueError("; ".join(problems))
  return args


def _parser(description: str) -> Parser:
  parser = Parser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--model", type=home, required=True, help="HF-format folder or hub name")
  add(
    "--history",
    type=split_paths,
    default=[],
    help="images, oldest first: a.png,b.png; a name may hold commas",
  )
  add("--titles", help="one for each image: 'A|B'; default: none")
  add("--mode", default="image", choices=("image", "item", "text"))
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
  # --greedy, --greedy=false and --nogreedy, as absl has them.
  add("--greedy", nargs="?", type=boolean, const=True, default=False)
  add("--nogreedy", dest="greedy", action="store_false")
  add(
    "--max_tokens",
    type=int,
    help="of an answer in words, by default 256; of a title, by default 32",
  )
  add("--seed", type=int, default=0)
  add("--dtype", default="float32", choices=("float32", "bfloat16"))
  add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
  return parser


def _problems(args: argparse.Namespace) -> list[str]:
  """Returns what is wrong with flags; tools/generate.py refuses the same."""
  problems = []
  titles, images = len(args.titles), len(args.history)
  if titles != images:
    problems.append(
      f"{titles} titles and {images} images: expected a title for each, as"
      " in --history=a.png,b.png --titles='A|B'"
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
  return problems


def home(path: str) -> str:
  """Returns a path with the home folder for the '~' it begins with."""
  full = os.path.expanduser(path)
  if full.startswith("~"):  # left as it is: no such user
    raise argparse.ArgumentTypeError(
      f"{path}: there is no home folder {full.split(os.sep)[0]}; a folder of"
      f" that name is ./{path}"
    )
  return full


def split_paths(text: str) -> list[str]:
  """Splits 'a.png,b.png' at its commas, but for those of names that exist.

  As tools/generate.py: double quotes keep a name together, too, as in CSV.
  """
  parts: list[str] = next(csv.reader([text]), [])
  paths = []
  while parts:
    # The longest name first: 'a,b.png' is a file of that name, if there is one.
    names = [home(",".join(parts[:n])) for n in range(len(parts), 0, -1)]
    name = next(filter(os.path.exists, names), home(parts[0].strip()))
    count = len(parts) - names.index(name) if name in names else 1
    paths.append(name)
    parts = parts[count:]
  return paths


def boolean(text: str) -> bool:
  """Reads what follows --greedy=."""
  values = {"true": True, "t": True, "1": True}
  values |= {"false": False, "f": False, "0": False}
  if text.lower() not in values:
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
  return values[text.lower()]


def unwritable(folder: Path) -> str:
  """Returns why a folder cannot be written, '' if it can."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    return f"{folder} exists and is not an empty folder; choose another"
  parent = next(
    parent for parent in folder.absolute().parents if parent.exists()
  )
  try:  # permissions alone do not tell of a disk that is read-only
    tempfile.TemporaryDirectory(prefix=".", dir=parent).cleanup()
  except OSError:
    return f"{folder} cannot be written: {parent} is not a folder open to you"
  return ""


def fail(message: object) -> NoReturn:
  """Ends the program with one line."""
  sys.exit(f"error: {' '.join(str(message).split())}")
