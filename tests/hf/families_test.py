"""A family is a module, and loading asks for nothing beside it."""

import dataclasses
import types

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.hf import export, families, janus, load, safetensors_io
from tests.hf import tiny_janus

NAMES = [name for name in vars(families.Family) if not name.startswith("_")]


def test_every_family_brings_all_of_it():
  for module in families.FAMILIES.values():
    missing = {*NAMES, *families.Family.__annotations__} - vars(module).keys()
    assert not missing


def test_variants_of_all_families_have_one_preset_each():
  presets = families.presets()
  assert presets.keys() == {
    name for family in families.FAMILIES.values() for name in family.PRESETS
  }
  family, preset = presets["janus_pro_1b"]
  assert family is janus
  assert preset().language.width == 2048


def test_an_unknown_family_is_refused(tmp_path):
  with pytest.raises(
    UserError, match=r"'chameleon'; expected 'janus' or 'emu3'"
  ):
    families.family_of(tmp_path, {"model_type": "chameleon"})


def test_a_second_family_loads_and_exports_without_other_changes(
  tmp_path, monkeypatch
):
  """A module under another name, whose models and files say who made them."""
  folder = tmp_path / "model"
  tiny_janus.save(folder)
  tiny_janus.edit(folder / "config.json", model_type="other")

  def model_from_hf(config, processor, tensors):
    config = {**config, "model_type": "janus"}
    model = janus.model_from_hf(config, processor, tensors)
    return dataclasses.replace(model, pad_id=3)

  other = types.SimpleNamespace(**vars(janus))
  other.model_from_hf = model_from_hf
  other.config_for_export = lambda config, model: config | {"by": "other"}
  other.warnings = lambda stored: [f"{len(stored)} parameters"]
  monkeypatch.setitem(families.FAMILIES, "other", other)

  opened = load.open_generator(folder, dtype="float32")
  assert opened.model.pad_id == 3
  assert opened.family is other
  assert opened.warnings() == [f"{len(opened.stored)} parameters"]
  export.export_checkpoint(tmp_path / "out", opened)
  written = safetensors_io.read_config(tmp_path / "out")
  assert written["by"] == "other"
  assert written["model_type"] == "other"
