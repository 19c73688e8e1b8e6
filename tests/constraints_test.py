"""The versions that are installed are those that were tested."""

import importlib.metadata
import pathlib
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = ("pyproject.toml", "tests/requirements.txt")


def read(name):
  lines = (ROOT / name).read_text().splitlines()
  if name == "pyproject.toml":
    project = tomllib.loads((ROOT / name).read_text())["project"]
    lines = project["dependencies"]
  lines = [line.split("#")[0].strip() for line in lines]
  return [Requirement(x) for x in lines if x and not x.startswith("-")]


def named(requirements):
  return {canonicalize_name(x.name): x for x in requirements}


@pytest.fixture(scope="module")
def pins():
  return named(read("constraints.txt"))


def version(pin):
  [specifier] = pin.specifier
  assert specifier.operator == "=="
  return specifier.version


def test_the_users_command_reads_the_constraints():
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  assert lines[0] == "-c constraints.txt"
  assert lines[1].startswith("-e .")


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_held_at_a_version_in_its_range(name, pins):
  for required in read(name):
    pin = pins[canonicalize_name(required.name)]
    assert required.specifier.contains(version(pin)), required


def test_each_is_named_once_at_a_version_of_any_build(pins):
  """A local part, as of torch's +cpu, exists on some machines only."""
  assert len(pins) == len(read("constraints.txt"))
  for pin in pins.values():
    assert "+" not in version(pin)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_on_later_pythons_jax_is_the_accelerators_own(python, pins):
  free = {
    name
    for name, pin in pins.items()
    if pin.marker and not pin.marker.evaluate({"python_version": python})
  }
  family = {"flax", "jax", "jaxlib"}
  assert free == (set() if python == "3.11" else family)


def test_what_the_tested_versions_need_is_held_too(pins):
  """Where a newer version is installed, its needs may be others."""
  missing = set()
  todo = [*read(FILES[0]), *read(FILES[1])]
  seen = set()
  while todo:
    required = todo.pop()
    name = canonicalize_name(required.name)
    if (name, *sorted(required.extras)) in seen:
      continue
    seen.add((name, *sorted(required.extras)))
    if name not in pins:
      missing.add(name)
      continue
    found = importlib.metadata.distribution(name)
    if found.version.split("+")[0] != version(pins[name]):
      continue
    extras = ("", *required.extras)
    for line in found.requires or []:
      need = Requirement(line)
      if need.marker is None or any(
        need.marker.evaluate({"extra": extra}) for extra in extras
      ):
        todo.append(need)
  # What torch's builds for GPUs need, which torch itself holds.
  gpu = ("cuda", "nvidia", "triton")
  assert not {x for x in missing if not x.startswith(gpu)}
