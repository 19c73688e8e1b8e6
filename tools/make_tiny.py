"""Rebuilds genrec_jax/assets from nothing: the tiny models of the small world.

    python tools/make_tiny.py --out=DIR
    python tools/make_tiny.py --out=DIR --models=emu3

Seven models are trained in turn on the synthetic world, each from random
weights but where said: CLIP on (image, title); the judge on images and their
attributes; for Janus an image tokenizer, on images and codes that tell their
attributes, a Janus on it that generates from a title and reads an image
('tiny_base', not personalised), and, through `main.py --config=configs/sft.py`,
that Janus fine-tuned on histories ('tiny_sft'); the same for Emu3, of which the
last is kept ('tiny_emu3'). In Hugging Face format, all in bfloat16 but the
judge, which is in float16. The stages are in tools/tiny_models.
"""

from pathlib import Path
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

from genrec_jax.runtime import path_flags

_OUT = path_flags.path_flag("out", None, "Folder to write to.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of every stage.")
_MODELS = flags.DEFINE_multi_enum(
  "models",
  ["clip", "judge", "janus", "emu3"],
  ["clip", "judge", "janus", "emu3"],
  "Which to make. SFT is evaluated by the new CLIP, or else the bundled one.",
)


def make_clip(out: Path, seed: int) -> None:
  """Trains and writes tiny_clip."""
  from tiny_models import clip, tokens

  tokenizer = tokens.train_tokenizer(tokens.CLIP_TOKENS, "eos_token", 32)
  clip.write(out / "tiny_clip", *clip.train(tokenizer, seed, 500), tokenizer)


def make_judge(out: Path, seed: int) -> None:
  """Trains and writes tiny_judge."""
  from tiny_models import judge

  judge.write(out / "tiny_judge", judge.train(seed, 1000))


def make_janus(out: Path, seed: int) -> None:
  """Trains and writes tiny_base and tiny_sft."""
  import jax
  from tiny_models import image_tokenizers, janus, language, tokens

  from genrec_jax.hf.export import export_generator
  from genrec_jax.hf.janus_processor import JanusProcessor

  vq_params = image_tokenizers.train(image_tokenizers.JANUS, seed, 1500)
  tokenizer = tokens.train_tokenizer(tokens.JANUS_TOKENS, "", 4096)
  with tempfile.TemporaryDirectory() as folder:
    source = Path(folder)
    model = janus.tiny_janus(tokenizer)
    janus.write_settings(source, model, tokenizer)
    params = language.train(
      model,
      janus.start(model, seed, vq_params),
      JanusProcessor.from_pretrained(source),
      seed,
      1500,
    )
    export_generator(
      out / "tiny_base", model, jax.device_get(params), source, "bfloat16"
    )
  fine_tune("configs/sft.py", out / "tiny_base", out / "tiny_sft", seed)


def make_emu3(out: Path, seed: int) -> None:
  """Trains and writes tiny_emu3."""
  import jax
  from tiny_models import emu3, image_tokenizers, language

  vq_params = image_tokenizers.train(
    image_tokenizers.EMU3, seed, 3000, batch=16
  )
  with tempfile.TemporaryDirectory() as folder:
    settings, base = Path(folder, "settings"), Path(folder, "base")
    settings.mkdir()
    emu3.write_settings(settings)
    model, processor = emu3.open_settings(settings)
    start = model.init(jax.random.key(seed)) | {"tokenizer": vq_params}
    params = language.train(model, start, processor, seed, 400)
    emu3.write(base, model, params, settings)
    fine_tune("configs/sft.py:emu3_tiny", base, out / "tiny_emu3", seed)


def fine_tune(config: str, base: Path, target: Path, seed: int) -> None:
  """Runs SFT on a base and exports its result."""
  from genrec_jax.hf.export import export_generator
  from genrec_jax.hf.load import load_generator

  clip = target.parent / "tiny_clip"
  with tempfile.TemporaryDirectory() as workdir:
    subprocess.run(
      [
        sys.executable,
        "main.py",
        f"--config={config}",
        f"--workdir={workdir}",
        f"--config.seed={seed}",
        f"--config.model.checkpoint={base}",
        f"--config.clip.checkpoint={clip if clip.exists() else clip.name}",
      ],
      cwd=Path(__file__).parents[1],
      check=True,
    )
    loaded = load_generator(workdir, dtype="float32")
  export_generator(
    target, loaded.model, loaded.params, loaded.source, "bfloat16"
  )


_MAKERS = {
  "clip": make_clip,
  "judge": make_judge,
  "janus": make_janus,
  "emu3": make_emu3,
}


def main(argv: list[str]) -> None:
  """Trains and writes the models."""
  del argv
  logging.set_verbosity(logging.INFO)
  out = Path(_OUT.value).absolute()
  out.mkdir(parents=True, exist_ok=True)
  if any(out.iterdir()):
    raise app.UsageError(f"{out} is not empty: give a new folder with --out")
  for name, make in _MAKERS.items():
    if name in _MODELS.value:
      start = time.time()
      make(out, _SEED.value)
      logging.info("%s: %.0f minutes", name, (time.time() - start) / 60)


if __name__ == "__main__":
  app.run(main)
