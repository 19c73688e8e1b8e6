"""Keeps the ranks of docs/architecture.md true: imports point only down."""

import ast
import io
import pathlib
import re
import statistics
import tokenize

from genrec_jax.hf.families import FAMILIES
from tests.fast import FAST

ROOT = pathlib.Path(__file__).parents[1]
# A package imports from lower floors only, and nothing else of its own floor.
FLOORS = (
  {"core"},
  {"runtime", "html", "nn", "groups", "knots", "rows"},
  {"models", "data", "objectives"},
  {"hf", "ingest", "sampling", "targets"},
  {"rewards"},
  {"config"},
  {"evals"},
  {"train", "study"},
  {"analysis", "testing"},
)
RANKS = {name: rank for rank, floor in enumerate(FLOORS) for name in floor}
JIT = {"jit", "pjit", "pmap"}
BANNED_NAMES = {"utils", "common", "helpers", "experimental"}


def sources():
  return sorted((ROOT / "genrec_jax").rglob("*.py"))


def package(path):
  return path.relative_to(ROOT / "genrec_jax").parts[0].removesuffix(".py")


def imported(path):
  """Yields the dotted names that a file imports, from any depth."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_rank():
  assert {package(path) for path in sources()} - {"__init__"} == set(RANKS)


def test_imports_point_only_down():
  wrong = []
  for path in sources():
    for name in imported(path):
      top, *rest = name.split(".")
      if top in ("main", "configs", "tools", "tests", "benchmarks"):
        wrong.append(f"{path} imports {name}")
      if top != "genrec_jax" or package(path) == "__init__":
        continue
      if rest[0] == package(path):
        continue
      if RANKS[rest[0]] >= RANKS[package(path)]:
        wrong.append(f"{path} imports {name}, which is not below it")
  assert not wrong, "\n".join(wrong)


# What is one family's alone: itself, and the parts that it is built of.
OF_FAMILIES = re.compile(
  rf"genrec_jax\.(models|hf)\.({'|'.join(FAMILIES)}|llama|siglip|\w*vqgan)"
)
# Those who build one, or name it; everything else takes a `Generator`.
KNOW_FAMILIES = {"models", "hf", "testing"}


def of_families(names):
  return [name for name in names if OF_FAMILIES.match(name)]


def test_families_are_known_to_models_and_checkpoints_only():
  """Nothing that samples, rewards, trains or evaluates imports one."""
  wrong = [
    f"{path} imports {name}"
    for path in sources()
    if package(path) not in KNOW_FAMILIES
    for name in of_families(imported(path))
  ]
  assert not wrong, "\n".join(wrong)


def test_a_family_is_seen_however_it_is_written(tmp_path):
  file = tmp_path / "file.py"
  for text in (
    "import genrec_jax.models.emu3_tokens",
    "from genrec_jax.hf.janus_processor import JanusProcessor",
    "from genrec_jax.models import clip, janus",
    "def f():\n  from genrec_jax.models import movqgan",
  ):
    file.write_text(text)
    assert of_families(imported(file)), text
  file.write_text(
    "from genrec_jax.hf import load\nimport genrec_jax.models.api"
  )
  assert not of_families(imported(file))


def test_the_library_imports_neither_torch_nor_tensorflow():
  wrong = [
    f"{path} imports {name}"
    for path in sources()
    for name in imported(path)
    if name.split(".")[0] in ("torch", "tensorflow")
  ]
  assert not wrong, "\n".join(wrong)


def jits(tree):
  """Returns the lines that name a jit, as an attribute or imported."""
  return [
    node.lineno
    for node in ast.walk(tree)
    if (isinstance(node, ast.Attribute) and node.attr in JIT)
    or (
      isinstance(node, ast.ImportFrom)
      and JIT & {alias.name for alias in node.names}
    )
  ]


def test_a_jit_is_seen_however_it_is_written():
  for text in ("jax.jit(f)", "@jax.jit\ndef f(): pass", "from jax import jit"):
    assert jits(ast.parse(text))


def test_jit_is_called_only_at_the_top():
  wrong = [
    f"{path}:{line}"
    for path in sources()
    if RANKS.get(package(path), 0) < RANKS["evals"]
    and path.name != "compiler.py"  # asks what jit itself accepts
    for line in jits(ast.parse(path.read_text()))
  ]
  assert not wrong, "\n".join(wrong)


def test_config_goes_no_deeper_than_a_task():
  wrong = [
    f"{path} imports {name}"
    for path in sources()
    for name in imported(path)
    if name.split(".")[0] == "ml_collections"
    and path.name != "flag.py"  # defines the flag that a ConfigDict comes from
  ]
  assert not wrong, "\n".join(wrong)


def test_names_say_what_a_module_is_for():
  assert not BANNED_NAMES & {
    part.removesuffix(".py") for path in sources() for part in path.parts
  }


def takes_config(path):
  """Returns if a function of a file takes a ConfigDict, not a dict of one."""
  return any(
    argument.arg == "config"
    and (
      argument.annotation is None or ast.unparse(argument.annotation) == "Any"
    )
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
    for argument in (*node.args.args, *node.args.kwonlyargs)
  )


def test_a_config_passes_few_files_on_its_way_to_a_step():
  """Of RL: main.py, the config's two files, and those that take it on."""
  others = {"sft.py", "task.py"}  # of the other tasks
  found = {
    str(path.relative_to(ROOT))
    for path in sources()
    if package(path) in ("config", "evals", "train")
    and path.name not in others
    and takes_config(path)
  }
  found |= {"main.py", "configs/rl.py", "configs/common.py"}
  assert len(found) <= 12, sorted(found)


def test_each_room_has_fast_tests():
  rooms = {path.parent for path in (ROOT / "tests").rglob("*_test.py")}
  names = {room.relative_to(ROOT).as_posix() + "/" for room in rooms}
  assert not [x for x in names if not any(f.startswith(x) for f in FAST)]


def test_what_is_named_fast_exists():
  assert not [path for path in FAST if not (ROOT / path).exists()]


def test_files_are_small_and_say_why():
  """At most 400 lines, 150 in the middle, seven comments per hundred."""
  lines, comments = [], 0
  roots = [ROOT / name for name in ("genrec_jax", "configs", "tools")]
  files = [path for root in roots for path in root.rglob("*.py")]
  for path in [*files, ROOT / "main.py", *(ROOT / "benchmarks").glob("*.py")]:
    text = path.read_text()
    if path.name != "__init__.py":
      lines.append((len(text.splitlines()), str(path)))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments += sum(token.type == tokenize.COMMENT for token in tokens)
  assert max(lines)[0] <= 400, max(lines)
  assert statistics.median(number for number, _ in lines) <= 150
  assert comments >= 0.07 * sum(number for number, _ in lines)
