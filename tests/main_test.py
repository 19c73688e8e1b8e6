import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys

import pytest

from tests.tools.process import own_words

ROOT = pathlib.Path(__file__).parents[1]
ASSETS = ROOT / "genrec_jax" / "assets"


def main(*args, cwd=ROOT, program="main.py", **environment):
  done = subprocess.run(
    [sys.executable, str(ROOT / program), *args],
    cwd=cwd,
    env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  return done.returncode, own_words(done.stderr)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (
      ["--config=configs/rl.py:big"],
      "unknown variant 'big' of configs/rl.py: expected none or one of debug,"
      " emu3_tiny, janus_pro_1b, janus_pro_7b, emu3",
    ),
    (
      ["--config=configs/sft.py", "--config.train.stepz=3"],
      "unknown config key 'train.stepz': did you mean steps?",
    ),
    (
      ["--config=configs/sft.py", "--config.nothing=3"],
      "unknown config key 'nothing': see the file's keys",
    ),
    (
      ["--config=configs/sft.py", "--config.nothing.at_all=3"],
      "unknown config key 'nothing.at_all': see the file's keys",
    ),
    (
      ["--config=configs/sft.py", "--config.train.steps=many"],
      "flag --config.train.steps=many: invalid literal for int() with base 10:"
      " 'many'",
    ),
    (
      ["--config=configs/no.py"],
      "no config file 'configs/no.py': expected one such as configs/rl.py",
    ),
    (
      ["--config", "configs/no.py:debug"],
      "no config file 'configs/no.py': expected one such as configs/rl.py",
    ),
    (
      [],
      "flag --config=None: Flag --config must have a value other than None.",
    ),
    (
      ["--config=configs/rl.py", "--nope=1"],
      "Unknown command line flag 'nope'",
    ),
    (
      ["--config=configs/rl.py", "train.steps=3"],
      "unexpected argument 'train.steps=3': options start with --",
    ),
    (
      ["--config=configs/rl.py:janus_pro_7b"],
      "invalid values of the config:\n"
      "  model.checkpoint is not set: give an HF-format folder with"
      " --config.model.checkpoint=DIR\n"
      "  clip.checkpoint is not set: give an HF-format folder with"
      " --config.clip.checkpoint=DIR",
    ),
    (
      ["--config=configs/rl.py", "--config.rl.scoring=x"],
      "rl.scoring is 'x': expected one of guided, conditional",
    ),
    (
      [
        "--config=configs/rl.py",
        "--config.rl.scoring=conditional",
        "--config.rl.sampler_weight_cap=2",
      ],
      "rl.sampler_weight_cap=2.0 with scoring='conditional': expected 0, the"
      " sampler's distribution is the guided one",
    ),
    (
      ["--config=configs/evaluate.py", "--config.task=x"],
      "task is 'x': expected one of sft, rl, evaluate",
    ),
    (
      [
        "--config=configs/rl.py",
        "--config.sample.temperature=0",
        "--config.sample.top_p=2",
        "--config.model.remat=x",
        "--config.model.dtype=float16",
        "--config.rl.inner_epochs=0",
        "--config.train.log_every=0",
      ],
      "invalid values of the config:\n"
      "  model.dtype is 'float16': expected one of float32, bfloat16\n"
      "  model.remat is 'x': expected one of none, full, dots\n"
      "  sample.temperature is 0.0: expected at least 0.01; sample.top_k=1"
      " samples the likeliest code\n"
      "  sample.top_p is 2.0: expected more than 0 and at most 1, which cuts"
      " nothing\n"
      "  rl.inner_epochs is 0: expected at least 1\n"
      "  train.log_every is 0: expected at least 1",
    ),
    (
      ["--config=configs/evaluate.py", "--config.sample.temperature=nan"],
      "sample.temperature is nan: expected at least 0.01; sample.top_k=1"
      " samples the likeliest code",
    ),
    (
      # No model is there to be loaded: names come first.
      [
        "--config=configs/rl.py",
        "--config.objective.kl=k1",
        "--config.model.checkpoint=nowhere",
      ],
      "objective.kl is 'k1': expected one of k2, k3, k3_straight_through",
    ),
    (
      ["--config=configs/rl.py", "--workdir=main.py/run"],
      "workdir main.py/run cannot be written (Not a directory): give a folder"
      " that can with --workdir=DIR",
    ),
  ],
)
def test_bad_input_ends_in_one_clear_line(args, message):
  status, stderr = main(*args)
  assert status == 1
  assert stderr == f"error: {message}\n"


def test_a_workdir_of_another_config_is_refused_before_anything_loads(tmp_path):
  config = runpy.run_path(str(ROOT / "configs/rl.py"))["get_config"]()
  config.seed = 3
  (tmp_path / "config.json").write_text(config.to_json())
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  status, stderr = main("--config=configs/rl.py", f"--workdir={tmp_path}")
  assert status == 1
  assert stderr.startswith(f"error: workdir {tmp_path} belongs to a run of")
  assert stderr.splitlines()[1:] == ["  seed: 3 there, 0 now"]
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "checkpoints",
    "config.json",
  ]


def truncated(folder):
  weights = (folder / "model.safetensors").read_bytes()
  (folder / "model.safetensors").write_bytes(weights[:-100])


def missing(folder):
  (folder / "model.safetensors").unlink()


def pickled(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def another(folder):
  shutil.rmtree(folder)
  shutil.copytree(ASSETS / "tiny_clip", folder)


@pytest.mark.parametrize(
  ("task", "damage", "message"),
  [
    ("sft", truncated, "model.safetensors"),
    ("rl", missing, "model.safetensors"),
    ("sft", pickled, "pytorch_model.bin: refused"),
    ("rl", another, "has model_type 'clip'; expected 'janus'"),
  ],
)
def test_a_bad_checkpoint_is_told_and_poisons_nothing(
  tmp_path, task, damage, message
):
  shutil.copytree(ASSETS / "tiny_base", tmp_path / "model")
  damage(tmp_path / "model")
  status, stderr = main(
    f"--config={ROOT}/configs/{task}.py:debug",
    "--config.model.checkpoint=model",
    "--workdir=run",
    cwd=tmp_path,
  )
  assert status == 1
  assert stderr.startswith("error: ")
  assert "Traceback" not in stderr
  assert message in stderr
  assert str(tmp_path / "model") in stderr
  assert not list((tmp_path / "run").iterdir())


def test_a_row_that_cannot_be_is_told_before_the_run(tmp_path):
  status, stderr = main(
    f"--config={ROOT}/configs/rl.py:debug",
    "--config.eval.base=tiny_bass",
    "--workdir=run",
    cwd=tmp_path,
  )
  assert status == 1
  assert stderr.startswith("error: no model at 'tiny_bass': expected")
  assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("task", ["sft", "evaluate"])
def test_a_data_path_that_is_no_data_set_is_told_before_a_model_is_read(
  tmp_path, task
):
  # The model cannot be read either: it is not what is complained of.
  status, stderr = main(
    f"--config={ROOT}/configs/{task}.py:debug",
    "--config.data.path=nowhere",
    "--config.model.checkpoint=nothing",
    "--workdir=run",
    cwd=tmp_path,
  )
  assert status == 1
  assert stderr == (
    "error: no data set at nowhere: there is no such folder; give"
    " --config.data.path=DIR of a folder that tools/prepare_data.py made\n"
  )
  assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
  ("platform", "program"),
  [
    ("cuda", "main.py"),
    ("gpux", "main.py"),
    ("cuda", "tools/generate.py"),
  ],
)
def test_a_platform_without_devices_is_named(tmp_path, platform, program):
  options = {
    "main.py": [f"--config={ROOT}/configs/rl.py:debug", "--workdir=run"],
    "tools/generate.py": ["--model=tiny_sft", "--prompt=x", "--out=out"],
  }
  status, stderr = main(
    *options[program], cwd=tmp_path, program=program, JAX_PLATFORMS=platform
  )
  assert status == 1
  assert "Traceback" not in stderr
  (error,) = [line for line in stderr.splitlines() if line[:6] == "error:"]
  assert f"no device for JAX_PLATFORMS='{platform}' (" in error
  assert not list(tmp_path.iterdir())


def test_ctrl_c_before_the_first_checkpoint_promises_none(tmp_path):
  options = [f"--config={ROOT}/configs/sft.py:debug", "--workdir=run"]
  # Where the tests run in the background SIGINT is ignored, by children too.
  start = (
    "import runpy, signal, sys; sys.argv = sys.argv[1:];"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
  )
  with subprocess.Popen(
    [sys.executable, "-c", start, str(ROOT / "main.py"), *options],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    for line in process.stdout:
      if "parameters" in line:  # the model is loaded, nothing trained
        break
    process.send_signal(signal.SIGINT)
    stderr = process.stderr.read()
  assert process.returncode == 130
  assert stderr.endswith(
    "error: stopped before the first checkpoint; the same command begins anew\n"
  )
  assert not (tmp_path / "run" / ".lock").exists()


def test_a_batch_that_the_devices_do_not_divide(tmp_path):
  status, stderr = main(
    f"--config={ROOT}/configs/sft.py:debug",
    "--config.data.batch_size=9",
    "--workdir=run",
    cwd=tmp_path,
  )
  assert status == 1
  assert stderr.startswith("error: ")
  assert "Traceback" not in stderr
  assert "data.batch_size=9" in stderr
  assert not list((tmp_path / "run").iterdir())


def test_a_learning_rate_that_ends_before_the_run(tmp_path):
  status, stderr = main(
    f"--config={ROOT}/configs/sft.py:debug",
    "--config.optim.decay_steps=2",
    "--workdir=run",
    cwd=tmp_path,
  )
  assert status == 1
  assert stderr.startswith("error: optim.decay_steps=2: nothing is learned")
  assert "optim.decay_steps=0" in stderr
