"""Compiling ahead: what is counted, for which chips, and what is refused."""

import dataclasses
import functools
import importlib.util
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rl as rl_config
from configs import sft as sft_config
from genrec_jax.analysis import (
  abstract_step,
  hlo,
  hlo_collectives,
  hlo_cost,
  hlo_kernels,
  hlo_walk,
  roofline,
  step_report,
)
from genrec_jax.core import chips, sharding
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.models import janus
from genrec_jax.nn import attention
from genrec_jax.testing import tiny_clip, tiny_janus
from genrec_jax.train.plan import make_plan
from tests.tools.process import ROOT, run_tool

HBM = 16 * step_report.GIB
CHIP = chips.CHIPS["v5e"]

run = functools.partial(run_tool, "compile_check.py")


def tiny_plan(config, devices=None):
  """Lays the tests' smallest models out over 8 devices, FSDP."""
  config.data.history_length = 2
  return make_plan(
    config,
    model=tiny_janus(),
    rules=janus.RULES,
    clip=tiny_clip(),
    devices=devices,
  )


def check_decode_loop(config, plan):
  """Compiles the real RL step; no parameter may travel in its decode loop."""
  lowered = abstract_step.lower(
    config, plan, abstract_step.arguments(config, plan, 4)
  )
  program = hlo.parse(lowered.compile().as_text())
  [loop] = [x for x in hlo_walk.loops(program) if x.is_of(step_report.DECODE)]
  assert loop.trip_count == plan.model.image_tokens - 1
  inside = [
    c for c in hlo_collectives.find(program) if c.within(step_report.DECODE)
  ]
  assert not inside
  # Gathered they are, before it.
  assert any("gather" in c.kind for c in hlo_collectives.find(program))
  found = {phase.name: phase for phase in roofline.phases(program, CHIP)}
  with_gradient = ("decode", "policy", "policy backward", "reference")
  assert all(found[name].flop_seconds > 0 for name in with_gradient)
  assert {"prefill", "vq_decode", "rewards", "update"} <= set(found)
  # The gradient of a product is two, but one where what it reads is frozen, of
  # the aligner's first; what remat computes again comes on top.
  ratio = found["policy backward"].flop_seconds / found["policy"].flop_seconds
  assert 1.99 < ratio < 3.5
  assert "rewards backward" not in found


@pytest.fixture(scope="module")
def described():
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu, the compiler for TPUs, is not installed")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  from jax.experimental import topologies

  return topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:2x4"
  ).devices


def test_the_decode_loop_gathers_no_parameters_on_devices():
  config = rl_config.get_config("debug")
  check_decode_loop(config, tiny_plan(config))


def test_the_decode_loop_gathers_no_parameters_on_tpus(described):
  config = rl_config.get_config("debug")
  check_decode_loop(config, tiny_plan(config, described))


@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2", "v5p:2x2x1"])
def test_attention_is_a_kernel_on_tpus(described, topology):
  """Forwards and backwards, each device on its own prompts and heads."""
  from jax.experimental import topologies

  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  mesh = mesh_lib.make_mesh(model=2, devices=devices)
  samples, prompt, answer, width = 3, 300, 70, 128
  rows = jax.NamedSharding(
    mesh, jax.sharding.PartitionSpec(sharding.BATCH[0], "model")
  )
  tokens = prompt + samples * answer

  def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=rows)

  def gradients(q, k, v, mask):
    def loss(*inputs):
      return jnp.sum(attention.attend_shared(*inputs, mask, samples))

    return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

  lowered = jax.jit(sharding.trace_with_mesh(mesh, gradients)).lower(
    array(4, 4, 1, 1, tokens, width),
    *(array(4, 4, 1, tokens, width) for _ in range(2)),
    jax.ShapeDtypeStruct(
      (4, prompt), bool, sharding=jax.NamedSharding(mesh, sharding.BATCH)
    ),
  )
  program = hlo.parse(lowered.compile().as_text())
  kernels = [step for step in hlo_walk.walk(program) if hlo_kernels.flops(step)]
  assert len(kernels) == 2
  assert not list(hlo_collectives.find(program))
  # Two prompts and two heads of four, in one block of 512 tokens.
  product = 2 * 2 * 2 * 512**2 * width
  assert hlo_cost.flops(program) == (2 + 5) * product


@pytest.mark.parametrize("slices", [1, 2])
def test_tensor_parallel_decoding_adds_up_twice_a_layer(slices):
  config = rl_config.get_config("debug")
  config.mesh.model, config.mesh.slices = 2, slices
  config.sample.num_samples = samples = 7
  plan = tiny_plan(config)
  lowered = abstract_step.lower(
    config, plan, abstract_step.arguments(config, plan, 4)
  )
  program = hlo.parse(lowered.compile().as_text())
  [loop] = [x for x in hlo_walk.loops(program) if x.is_of(step_report.DECODE)]
  inside = [
    c for c in hlo_collectives.find(program) if c.within(step_report.DECODE)
  ]
  assert {c.times for c in inside} == {loop.trip_count}
  language = plan.model.language
  # Of a data shard: prompts in pairs, and their samples.
  prompts = config.data.batch_size // 4
  activations = (prompts * 2 * samples, language.width)
  whole = [c.kind for c in inside if c.arrays[0].shape == activations]
  assert whole.count("all-reduce") == 2 * language.num_layers
  # The code's embedding, in two layers, and the hidden layer of the head.
  assert whole.count("all-gather") == 3
  assert len(whole) == 2 * language.num_layers + 3
  # The choice of a code: a number or two of each sample, so no logits.
  choice = [x for c in inside for x in c.arrays if x.shape != activations]
  assert {x.shape[:2] for x in choice} == {(prompts, samples)}
  assert max(x.size for x in choice) <= prompts * samples * config.mesh.model
  # None of all these can be a parameter, which has no axis so long.
  parameters = jax.tree.leaves(plan.params)
  shards = [x.sharding.shard_shape(x.shape) for x in parameters]
  sizes = {
    n for shape in [*shards, *(x.shape for x in parameters)] for n in shape
  }
  assert not sizes & {activations[0], samples}


def test_a_report_of_one_device_of_eight():
  config = sft_config.get_config("debug")
  plan = tiny_plan(config)
  found = step_report.report(config, plan, 4, HBM, CHIP)
  assert found.fits
  assert found.chips == 8
  # CLIP too, which a supervised step does not read.
  assert found.memory["frozen"] > abstract_step.nbytes(plan.frozen["clip"]) > 0
  stays = ("trained", "frozen", "optimizer", "batch")
  assert found.total >= sum(found.memory[part] for part in stays)
  # Adam's two moments and two counts beside the float32 parameters.
  assert found.memory["optimizer"] == 2 * found.memory["trained"] + 2 * 4
  assert found.memory["reference"] == found.memory["kv"] == 0
  assert found.work["FLOPs"]["all"] > found.work["FLOPs"]["decode loop"] == 0
  assert all(c["where"] == "elsewhere" for c in found.collectives)
  assert not found.unknown_trip_counts
  names = [phase.name for phase in found.phases]
  assert names == ["targets", "policy", "policy backward", "update", "other"]
  assert roofline.seconds(found.phases) > 0
  written = step_report.text(found)
  assert "of 16.00: fits" in written
  assert "seconds at least, per step" in written
  # Eight prompts on eight shards, each of them with the keys of one.
  found.mesh, found.settings["prompts"] = {"data": 8, "slice": 1}, 8
  found.memory["kv"] = 1000
  assert dataclasses.replace(found, hbm=found.total + 2500).more_prompts == 2
  found.hbm = found.total + 2500
  assert "about 2 more prompts" in step_report.text(found)
  found.hbm = found.total - 1
  assert not found.more_prompts
  written = step_report.text(found)
  assert "DOES NOT FIT" in written
  assert "data.microbatches" in written


def test_shapes_of_published_sizes():
  """Nothing is compiled: parameters and keys of 7B on 8 devices, by hand."""
  config = rl_config.get_config("janus_pro_7b")
  config.data.batch_size = config.eval.batch_size = 8
  plan = abstract_step.open_plan(config, "janus_pro_7b", jax.devices())
  args = abstract_step.arguments(config, plan, 32)
  tokens = args[2].prompt.ids.shape[1]
  assert tokens == 5 * (576 + 32 + 3) + 32
  kv = sum(x.size for x in abstract_step.kv_shapes(config, plan, args))
  # Keys and values; both branches of guidance. A long prefix is whole tiles,
  # and of the unconditional ones each of two data shards has one. Before every
  # answer comes its prompt's last token, which is kept for all of them, too.
  rows = (8 + 2) * 25 * 128 + 16 * 8 * (1 + 576) + 16
  assert kv == 2 * 30 * 32 * 128 * rows
  config.rl.rollout_type, config.rl.sampler_weight_cap = "int8", 2.0
  narrow = abstract_step.kv_shapes(config, plan, args)
  eight_bits = sum(x.size for x in narrow if x.dtype == np.int8)
  # All but the last tokens, which only fill caches before the first code.
  assert eight_bits == 2 * 30 * 32 * 128 * (rows - 16)
  # In bfloat16, of float32 masters.
  assert 2 * abstract_step.nbytes(args[1]["reference"]) == abstract_step.nbytes(
    args[0].params
  )
  config.objective.kl_weight = 0.0
  assert "reference" not in abstract_step.arguments(config, plan, 32)[1]
  config.model.checkpoint = ""
  with pytest.raises(abstract_step.UserError, match="janus_pro_1b"):
    abstract_step.open_plan(config, "", jax.devices())


def test_shapes_of_emu3_at_its_published_size():
  """As above: 128-pixel histories, 256-pixel targets, by hand."""
  config = rl_config.get_config("emu3")
  config.data.batch_size = config.eval.batch_size = 8
  assert config.sample.num_samples == 8
  plan = abstract_step.open_plan(config, "emu3", jax.devices())
  args = abstract_step.arguments(config, plan, 32)
  prompt = args[2].prompt
  assert prompt.images.shape == (8, 5, 128, 128, 3)
  assert args[2].future.shape[2:] == (256, 256, 3)
  # An image that is read: 16 rows of 16 codes and an end. What begins one that
  # is generated: its begin, "32*32" a letter each, and a last one. The title's
  # 32, the end of an image and a new line besides.
  read, begin = 16 * (16 + 1), 1 + 5 + 1
  length = 5 * (read + begin + 32 + 2) + 32
  assert prompt.ids.shape == (8, length) == (8, 1597)
  kv = sum(x.size for x in abstract_step.kv_shapes(config, plan, args))
  # As above, prefixes in 13 tiles; a row of codes takes the room of its end,
  # too. A quarter of the heads have keys.
  rows = (8 + 2) * 13 * 128 + 16 * 8 * (1 + 32 * (32 + 1)) + 16
  assert kv == 2 * 32 * 8 * 128 * rows
  # Codes alone are scored: of a vocabulary of 184,622 the 32,768 of images.
  assert plan.model.codebook_size == 32768
  assert plan.model.image_tokens == 32 * 32


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--topology=v9:2x2"], "expected a generation"),
    (["--topology=v5p:2x2"], "v5p:2x2x2 (three)"),
  ],
)
def test_unknown_topologies_are_refused(flags, message):
  status, out, error = run(f"--config={ROOT}/configs/rl.py:debug", *flags)
  assert status == 1
  assert not out
  assert error.startswith("error: --topology=")
  assert message in error
  assert "Traceback" not in error


def test_without_libtpu_the_error_says_what_to_install():
  code = (
    "import importlib.util as u, runpy, sys; sys.argv = sys.argv[1:];"
    "find = u.find_spec;"
    "u.find_spec = lambda n, *a: None if n == 'libtpu' else find(n, *a);"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
  )
  status, out, error = run(
    f"--config={ROOT}/configs/sft.py:debug", "--topology=v5e:2x2", code=code
  )
  assert (status, out) == (1, "")
  assert "pip install 'jax[tpu]==" in error
  assert error.count("\n") == 1


@pytest.mark.parametrize(
  ("problem", "needed"),
  [
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory"
      " in memory space hbm. Used 38.70G of 31.25G hbm. Exceeded hbm capacity"
      " by 7.45G.",
      int(38.7 * step_report.GIB),
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
      " for HLO temporaries (96.00G) exceeds available HBM (15.75G).",
      100 * step_report.GIB,
    ),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", 0),
    ("INTERNAL: Used 38.70G of something else.", 0),
  ],
)
def test_what_was_wanted_is_read_off_a_refusal(problem, needed):
  resident = 4 * step_report.GIB
  assert step_report._needed(problem, resident) == needed


@pytest.mark.parametrize("hbm", [16, 0.001])
def test_the_exit_status_says_whether_it_fits(hbm, tmp_path):
  """As for a TPU, on a CPU device of this machine."""
  code = (
    "import runpy, sys; sys.argv = sys.argv[1:];"
    "tool = runpy.run_path(sys.argv[0]);"
    "names = tool['main'].__globals__;"
    "import jax;"
    "names['describe'] = lambda *_: jax.devices('cpu')[:1];"
    "names['_versions'] = lambda: 'jax';"
    f"names['HBM']['v5e'] = {hbm};"
    "tool['app'].run(tool['main'], flags_parser=tool['flag'].parse)"
  )
  status, out, error = run(
    f"--config={ROOT}/configs/sft.py:debug",
    "--topology=v5e:1x1",
    f"--json={tmp_path}/found.json",
    code=code,
  )
  assert "Traceback" not in error
  assert status == (0 if hbm == 16 else 1), error
  record = json.loads((tmp_path / "found.json").read_text())
  assert record["fits"] == (hbm == 16)
  assert record["total"] > record["memory"]["trained"] > 0
  assert ("DOES NOT FIT" in out) == (hbm != 16)
  assert ("what would help" in out) == (hbm != 16)


def test_a_file_that_cannot_be_written_is_refused_before_compiling():
  status, out, error = run(
    f"--config={ROOT}/configs/sft.py:debug",
    "--topology=v5e:2x2",
    "--json=/nowhere/found.json",
  )
  assert (status, out) == (1, "")
  assert error.startswith("error: --json=/nowhere/found.json: expected a file")
