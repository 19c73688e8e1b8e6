from types import SimpleNamespace

from genrec_jax.evals import lineage
from genrec_jax.hf import locate


def test_bundled_models_are_warned_of_where_they_meet_photos(
  tmp_path, workdir_of
):
  photos = SimpleNamespace(users=[{"id": b"7"}], path="data/movies")
  world_made = SimpleNamespace(users=[{"wants": 0}], path="runs/data/synthetic")
  (tmp_path / "hf").mkdir()
  real = str(tmp_path / "hf")
  run = workdir_of(
    tmp_path / "sft", task="sft", model={"checkpoint": "tiny_base"}
  )
  for checkpoint, clip, named in (
    ("tiny_sft", real, "tiny_sft:"),
    (real, "tiny_clip", "tiny_clip:"),
    (str(locate.ASSETS / "tiny_sft"), real, str(locate.ASSETS / "tiny_sft")),
    (run, real, "tiny_base:"),  # what a run came from
    ("tiny_sft", "tiny_clip", "tiny_sft, tiny_clip:"),
  ):
    (line,) = lineage.warnings(checkpoint, (clip,), photos)
    assert line.startswith(named)
    assert "mean nothing" in line
    assert lineage.warnings(checkpoint, (clip,), world_made) == []
  assert lineage.warnings(real, (real,), photos) == []
  (line,) = lineage.warnings(real, (real, "tiny_judge"), photos)
  assert line.startswith("tiny_judge:")


def test_lineage(tmp_path, workdir_of):
  assert lineage.lineage("tiny_base") == [("base", "tiny_base")]
  assert lineage.lineage("tiny_sft") == [("sft", "tiny_sft")]
  assert lineage.lineage("tiny_emu3") == [("sft", "tiny_emu3")]
  folder = workdir_of(tmp_path / "hf", model_type="janus")
  assert lineage.lineage(folder) == [("model", folder)]
  gone = workdir_of(tmp_path / "sft", task="sft", model={"checkpoint": "gone"})
  assert lineage.lineage(gone) == [("base", "gone"), ("sft", gone)]
  assert lineage.existing(lineage.lineage(gone)) == [("sft", gone)]
  # A base that is known is believed, one that is not is taken from eval.base.
  eval_base = {"base": "tiny_base"}
  rl = workdir_of(
    tmp_path / "rl", task="rl", model={"checkpoint": gone}, eval=eval_base
  )
  older = [("base", "gone"), ("sft", gone)]
  assert lineage.lineage(rl) == [*older, ("rl", rl)]
  config = {"task": "rl", "model": {"checkpoint": rl}}
  assert lineage.trained_from(config) == [*older, ("start", rl)]
  config = {"task": "rl", "model": {"checkpoint": folder}, "eval": eval_base}
  assert lineage.trained_from(config) == [
    ("base", "tiny_base"),
    ("model", folder),
  ]
