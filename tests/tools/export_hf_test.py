"""The tool from the command line: what it leaves, and what it says."""

import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
import transformers

from genrec_jax.core import tree
from genrec_jax.hf import load, workdir_model
from genrec_jax.hf.export import export_checkpoint
from tests.hf import tiny_janus
from tests.tools.process import ROOT, run_tool
from tools.hf_inference import command
from tools.hf_inference import flags as torch_flags

run = functools.partial(run_tool, "export_hf.py")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Returns a run that trained two parameters of a base in bfloat16."""
  folder = tmp_path_factory.mktemp("run")
  base = tiny_janus.save(
    folder / "base", tiny_janus.torch_model().bfloat16(), max_shard_size="99KB"
  )
  params = load.load_generator(base, dtype="float32").params
  trained, _ = tree.select(params, ["layers/self_attn/q_proj/kernel"])
  trained = jax.tree.map(lambda x: x + 1 / 3, trained)
  workdir = tiny_janus.make_workdir(folder / "workdir", base, trained)
  tiny_janus.edit(workdir / "config.json", **SETTINGS)
  return workdir


# What a run's config says of sampling.
SETTINGS = {
  "sample": {"guidance": 2.5, "temperature": 0.75, "top_k": 0, "top_p": 0.5},
  "data": {"instruction": "Draw what comes next."},
}


def tensors_of(folder):
  files = sorted(folder.glob("*.safetensors"))
  return {k: v for file in files for k, v in load_file(file).items()}


def test_a_workdir_becomes_a_folder_of_transformers(workdir, tmp_path):
  out = tmp_path / "exported" / "model"
  flags = (f"--workdir={workdir}", f"--out={out}")
  # Killed with the weights on disk and nothing but their name to be changed.
  kill = (
    "import os, runpy, sys; sys.argv = sys.argv[1:];"
    "os.fsync = lambda _: os.kill(os.getpid(), 9);"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
  )
  assert run(*flags, code=kill)[0] == -9
  assert not out.exists()
  left = [path.name for path in out.parent.rglob("*")]
  assert left
  assert "config.json" not in left

  status, stdout, stderr = run(*flags)
  assert (status, stderr) == (0, "")
  tensors = len(tensors_of(out))  # of stacked layers each one's
  assert f": {tensors} tensors, 5 of them trained" in stdout
  theirs, info = transformers.JanusForConditionalGeneration.from_pretrained(
    out, output_loading_info=True
  )
  assert not any(info.values()), info
  assert str(theirs.dtype) == "torch.bfloat16"
  base, found = tensors_of(workdir.parent / "base"), tensors_of(out)
  assert found.keys() == base.keys()
  for name, value in base.items():
    assert found[name].dtype == value.dtype
    if "layers" in name and "q_proj" in name and name.endswith("weight"):
      expected = (value.astype(np.float32) + np.float32(1 / 3)).astype(
        value.dtype
      )
      np.testing.assert_array_equal(found[name], expected, err_msg=name)
    else:
      assert found[name].tobytes() == value.tobytes(), name
  settings = {p.name for p in (workdir.parent / "base").glob("*.json")}
  settings.discard("model.safetensors.index.json")
  assert settings <= {p.name for p in out.iterdir()}
  # Sampled as in the run, by either tool.
  assert f"end with {SETTINGS['data']['instruction']!r}" in stdout
  args = torch_flags.parse([f"--model={out}", "--prompt=a", f"--out={out}/new"])
  assert command.sampling_settings(out, args) == SETTINGS["sample"]
  expected = dict(SETTINGS["sample"])
  assert workdir_model.sampling_settings(workdir) == (
    expected,
    SETTINGS["data"]["instruction"],
  )
  del expected["top_k"]  # as where nothing is said
  assert workdir_model.sampling_settings(out) == (expected, None)
  generation = json.loads((out / "generation_config.json").read_text())
  assert generation["bos_token_id"] == tiny_janus.BOS  # the rest stays


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--out=x"], "--workdir"),
    (["--workdir=x", "--out=x", "--dtype=int8"], "value should be one of"),
    (["--workdir=x", f"--out={ROOT}"], "exists and is not an empty folder"),
    (["--workdir=nowhere", "--out=x"], "no model at 'nowhere'"),
  ],
)
def test_what_is_wrong_is_one_message(flags, message):
  status, _, stderr = run(*flags)
  assert status == 1
  assert stderr.startswith("error: ")
  assert "Traceback" not in stderr
  assert message in stderr


def test_the_type_of_weights_is_a_choice(workdir, tmp_path):
  expected = load.load_generator(workdir, dtype="float32")
  export_checkpoint(tmp_path / "m", expected, "float32")
  found = load.load_generator(tmp_path / "m", dtype="float32")
  assert found.model == expected.model
  jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
  config = json.loads((tmp_path / "m" / "config.json").read_text())
  assert config["dtype"] == "float32"
