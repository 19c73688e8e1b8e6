"""Memory that importing a large checkpoint takes, beyond what it becomes."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from genrec_jax.hf import emu3 as hf_emu3
from genrec_jax.hf import janus as hf_janus
from genrec_jax.hf import janus_config, rules, write_model
from genrec_jax.hf import llama as hf_llama
from genrec_jax.models import llama, siglip, vqgan
from genrec_jax.models.janus import Janus
from tests.hf import tiny_emu3, tiny_janus

ROOT = pathlib.Path(__file__).parents[2]
ALLOWED = 1.5e9  # bytes beside the device arrays
GB = 1e9

# Measured in a process of its own: the peak is that of a process's whole life.
IMPORT = """
import json, resource, sys
import jax
from genrec_jax.core import sharding
from genrec_jax.core.mesh import make_mesh
from genrec_jax.hf import load

folder, dtype, data, model = sys.argv[1:]
opened = load.open_generator(folder, dtype="float32")
mesh = make_mesh(int(data), int(model))
specs = sharding.specs(opened.rules, opened.shapes)
layout = sharding.checked_shardings(mesh, specs, opened.shapes)
params = opened.read(layout, dtype)
size = sum(
  shard.data.nbytes
  for leaf in jax.tree.leaves(params)
  for shard in leaf.addressable_shards
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "size": size}))
"""
# A run on one device that trained the larger half of the model.
TRAIN = """
import pathlib, sys
import jax
from genrec_jax.core import tree
from genrec_jax.hf import load
from tests.hf import tiny_janus

folder, workdir = sys.argv[1:]
opened = load.open_generator(folder, dtype="float32")
here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
trained, _ = tree.select(opened.shapes, ["mlp/"])
params = opened.read(jax.tree.map(lambda _: here, trained))
tiny_janus.make_workdir(pathlib.Path(workdir), folder, params)
"""


def python(code, *args, devices):
  flag = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.run(
    [sys.executable, "-c", code, *map(str, args)],
    check=True,
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": flag, "PYTHONPATH": str(ROOT)},
    cwd=ROOT,
  ).stdout


def measure(model, dtype, data, model_axis):
  """Returns bytes of an imported model, and of all else at the peak."""
  out = python(
    IMPORT, model, dtype, data, model_axis, devices=data * model_axis
  )
  found = json.loads(out.splitlines()[-1])
  beside = found["peak"] - found["size"]
  print(
    f"{found['size'] / GB:.2f} GB of {dtype} on {data}x{model_axis} devices,"
    f" {beside / GB:.2f} GB beside them"
  )
  return found["size"], beside


def big_language(**sizes):
  """Returns a language model of 1.1e9 parameters, most in a few tensors."""
  return llama.Llama(
    vocab_size=49152,
    width=2048,
    mlp_width=6144,
    num_layers=18,
    num_heads=16,
    head_width=128,
    **sizes,
  )


def big_janus(source):
  """Returns a Janus, and its config.json; writes its settings."""
  model = Janus(
    language=big_language(num_kv_heads=16),
    vision=siglip.Siglip(),
    tokenizer=vqgan.VQGAN(),
    bos_id=tiny_janus.BOS,
    pad_id=tiny_janus.PAD,
    boi_id=tiny_janus.BOI,
    image_id=tiny_janus.IMAGE,
  )
  config, generation = janus_config.config_to_hf(
    model, eos_id=1, max_positions=8
  )
  tiny_janus.save_settings(source, side=model.image_size)
  (source / "generation_config.json").write_text(json.dumps(generation))
  return model, config


def big_emu3(source):
  """Returns an Emu3, and its config.json; writes its settings."""
  small = tiny_emu3.pair()[1]
  language = big_language(
    num_kv_heads=8, rope_base=1e6, norm_epsilon=small.language.norm_epsilon
  )
  model = dataclasses.replace(small, language=language)
  theirs = tiny_emu3.pair()[0].config
  config = json.loads(theirs.to_json_string(use_diff=False))
  config["text_config"] |= hf_llama.to_config(language)
  tiny_emu3.processor().save_pretrained(source)
  sizes = {"image_size": tiny_emu3.SIZE, "read_size": tiny_emu3.READ}
  return model, config | sizes


class Random:
  """A tensor that is made when it is written."""

  dtype = np.dtype("bfloat16")

  def __init__(self, shape):
    self.shape = shape

  def __array__(self, dtype=None, copy=None):
    bits = np.random.default_rng(0).integers(0, 2**16, self.shape, np.uint16)
    bits &= 0x80FF  # sign and mantissa; the exponent makes it less than 1
    bits |= 0x3F00
    return bits.view(self.dtype)


def available_memory():
  """Returns bytes; what the system does not tell counts as none."""
  try:
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
  except OSError:
    return 0
  values = dict(line.split(":") for line in lines)
  return int(values["MemAvailable"].split()[0]) * 1024


# How a big one is made, and its names in HF format.
BIG = {
  "janus": (big_janus, hf_janus.rules),
  "emu3": (big_emu3, hf_emu3.rules),
}


@pytest.fixture(scope="module", params=BIG)
def checkpoint(request, tmp_path_factory):
  """Returns a folder of a random model in bfloat16, > 2 GB in five shards."""
  root = tmp_path_factory.mktemp("big")
  free = shutil.disk_usage(root).free
  if free < 8 * GB:
    pytest.skip(f"needs 8 GB of disk, {root} has {free / GB:.1f}")
  memory = available_memory()
  if memory < 14 * GB:
    pytest.skip(f"needs 14 GB of memory, {memory / GB:.1f} are free")
  make, rules_of = BIG[request.param]
  source = root / "source"
  source.mkdir()
  model, config = make(source)
  names = rules.to_hf(
    rules_of(model), jax.eval_shape(model.init, jax.random.key(0))
  )
  tensors = {name: Random(tensor.shape) for name, tensor in names.items()}
  write_model.write(
    root / "model", config, tensors, source=source, max_shard_bytes=6 * 10**8
  )
  yield root / "model"
  shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("dtype", "data", "model"),
  [("float32", 1, 1), ("bfloat16", 1, 1), ("bfloat16", 4, 2)],
)
def test_importing_takes_little_more_than_the_result(
  checkpoint, dtype, data, model
):
  files = list(checkpoint.glob("*.safetensors"))
  assert len(files) >= 5
  stored = sum(file.stat().st_size for file in files)
  assert stored > 2 * GB
  size, beside = measure(checkpoint, dtype, data, model)
  assert size >= stored * (2 if dtype == "float32" else 1) * 0.99
  assert beside <= ALLOWED


@pytest.mark.slow
def test_a_workdir_goes_onto_another_mesh_with_as_little(checkpoint, tmp_path):
  python(TRAIN, checkpoint, tmp_path / "run", devices=1)
  size, beside = measure(tmp_path / "run", "float32", 4, 2)
  assert size > 4 * GB
  assert beside <= ALLOWED
