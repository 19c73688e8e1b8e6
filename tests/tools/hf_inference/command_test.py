"""tools/infer_hf.py from the command line: ours, and nothing of ours needed."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tests.tools import bad_flags
from tests.tools.process import ROOT, own_words
from tools.hf_inference import checkpoint, command, flags

ASSET = ROOT / "genrec_jax/assets/tiny_sft"


def test_it_runs_where_there_is_neither_jax_nor_this_package(
  tmp_path, image_files
):
  """A copy of the file and its folder, as `python copy/infer_hf.py` runs it."""
  copy = tmp_path / "copy"
  shutil.copytree(
    ROOT / "tools/hf_inference",
    copy / "hf_inference",
    ignore=shutil.ignore_patterns("__pycache__"),
  )
  shutil.copy(ROOT / "tools/infer_hf.py", copy)
  code = (
    "import runpy, sys\n"
    "for name in ('jax', 'jaxlib', 'flax', 'genrec_jax', 'absl', 'tools'):\n"
    "  sys.modules[name] = None\n"
    f"sys.argv[0] = {str(copy / 'infer_hf.py')!r}\n"
    f"sys.path[0] = {str(copy)!r}\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
  )
  done = subprocess.run(
    [
      *(sys.executable, "-c", code),
      *(f"--model={ASSET}", "--titles=large red circle|small cross|"),
      f"--history={','.join(map(str, image_files))}",
      *("--out=new/out", "--dump=dump", "--num=3", "--temperature=0.5"),
    ],
    cwd=tmp_path,
    env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, own_words(done.stderr)) == (0, "")
  assert "past_key_values" not in done.stderr  # deprecated since 5.24
  names = {path.name for path in (tmp_path / "new/out").iterdir()}
  assert names == {"0.png", "1.png", "2.png", "sheet.png"}
  arrays = {path.stem: np.load(path) for path in (tmp_path / "dump").iterdir()}
  assert {name: (a.shape, str(a.dtype)) for name, a in arrays.items()} == {
    "prompt_ids": (arrays["prompt_ids"].shape, "int32"),
    "pixel_values": ((3, 3, 32, 32), "float32"),
    "codes": ((3, 16), "int32"),
    "images": ((3, 32, 32, 3), "uint8"),
  }
  sheet = np.asarray(PIL.Image.open(tmp_path / "new/out/sheet.png"))
  assert sheet.shape == (64, 96, 3)
  for i, image in enumerate(arrays["images"]):
    written = np.asarray(PIL.Image.open(tmp_path / f"new/out/{i}.png"))
    np.testing.assert_array_equal(written, image)
    np.testing.assert_array_equal(sheet[32:, 32 * i : 32 * i + 32], image)


def test_both_tools_write_the_same_arrays(tmp_path, image_files):
  def arguments(name):
    return [
      *(f"--model={ASSET}", f"--history={','.join(map(str, image_files))}"),
      *(f"--out={tmp_path / name}", f"--dump={tmp_path / name}"),
      *("--titles=a||red cross", "--prompt=Draw this.", "--num=2"),
      *("--guidance=3", "--greedy"),
    ]

  command.main(arguments("infer_hf"))
  subprocess.run(
    [sys.executable, ROOT / "tools/generate.py", *arguments("generate")],
    env={**os.environ, "HF_HUB_OFFLINE": "1", "XLA_FLAGS": ""},
    check=True,
  )
  files = [
    sorted(p.name for p in (tmp_path / name).iterdir())
    for name in ("infer_hf", "generate")
  ]
  assert files[0] == files[1]
  assert files[0][:2] == ["0.png", "1.png"]
  theirs, ours = (
    {p.stem: np.load(p) for p in (tmp_path / name).glob("*.npy")}
    for name in ("infer_hf", "generate")
  )
  assert theirs.keys() == ours.keys()
  for name, array in theirs.items():
    assert array.dtype == ours[name].dtype, name
  np.testing.assert_array_equal(theirs["prompt_ids"], ours["prompt_ids"])
  np.testing.assert_array_equal(theirs["codes"], ours["codes"])
  np.testing.assert_allclose(
    theirs["pixel_values"], ours["pixel_values"], atol=1e-6
  )
  np.testing.assert_allclose(
    theirs["images"].astype(int), ours["images"], atol=1
  )


def test_it_answers_a_question_about_an_image(tmp_path, image_files, capsys):
  arguments = [
    *(f"--model={ASSET.with_name('tiny_base')}", "--mode=text"),
    *(f"--history={image_files[2]}", f"--out={tmp_path / 'out'}"),
    *("--prompt=What is it?", "--greedy", "--max_tokens=8"),
  ]
  command.main(arguments)
  text = capsys.readouterr().out
  assert text.strip()
  assert text.startswith((tmp_path / "out/answer.txt").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def refusals(place, image_files):
  images = image_files[0].parent
  (images / "text.png").write_text("no image")
  (images / "part.png").write_bytes(image_files[0].read_bytes()[:-100])
  return bad_flags.make(place, images)


@pytest.mark.parametrize("name", bad_flags.CASES)
def test_what_generate_refuses_is_refused_in_one_line(
  folder, theirs, place, refusals, monkeypatch, name
):
  """The other half is generate_test."""
  arguments, messages = refusals[name]
  monkeypatch.setattr(
    checkpoint,
    "load",
    (lambda *_: theirs) if "too" in name else lambda *_: pytest.fail("loaded"),
  )
  with pytest.raises(SystemExit) as error:
    command.main([f"--model={folder}", *arguments])
  assert error.value.code.startswith("error: ")
  for message in messages:
    assert message in error.value.code
  assert "\n" not in error.value.code
  assert {path.name for path in place.iterdir()} == {"full", "file"}
  assert [path.name for path in (place / "full").iterdir()] == ["note"]


def test_both_tools_take_the_same_flags():
  """They define them apart: infer_hf.py stands alone."""
  code = (
    "from absl import flags; from tools import generate;"
    "by_module = flags.FLAGS.flags_by_module_dict();"
    "print(*(flag.name for flag in by_module['tools.generate']))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    check=True,
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  with (
    pytest.raises(SystemExit),
    contextlib.redirect_stdout(io.StringIO()) as help_text,
  ):
    flags.parse(["--help"])
  theirs = set(re.findall(r"^  --(\w+)", help_text.getvalue(), re.MULTILINE))
  assert theirs - {"device", "nogreedy"} == set(done.stdout.split())
