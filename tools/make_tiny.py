"""Rebuilds genrec_jax/assets from nothing: the tiny models of the small world.

    python tools/make_tiny.py --out=DIR

Five models are trained in turn on the synthetic world, each from random
weights: CLIP on (image, title), the judge on images and their attributes, the
VQGAN on images and codes that tell their attributes, a Janus that generates
from a title and reads an image ('tiny_base', not personalised), and, through
`main.py --config=configs/sft.py`, the Janus fine-tuned on histories
('tiny_sft'). In Hugging Face format, all in bfloat16 but the judge, which is in
float16. The stages are in tools/tiny_models.
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


def fine_tune(out: Path, seed: int) -> None:
  """Runs configs/sft.py on the new tiny_base and exports its result."""
  from genrec_jax.hf.export import export_generator
  from genrec_jax.hf.load import load_generator

  root = Path(__file__).parents[1]
  with tempfile.TemporaryDirectory() as workdir:
    subprocess.run(
      [
        sys.executable,
        "main.py",
        "--config=configs/sft.py",
        f"--workdir={workdir}",
        f"--config.seed={seed}",
        f"--config.model.checkpoint={out / 'tiny_base'}",
        f"--config.clip.checkpoint={out / 'tiny_clip'}",
      ],
      cwd=root,
      check=True,
    )
    loaded = load_generator(workdir, dtype="float32")
  export_generator(
    out / "tiny_sft", loaded.model, loaded.params, loaded.source, "bfloat16"
  )


def main(argv: list[str]) -> None:
  """Trains and writes the five models."""
  del argv
  logging.set_verbosity(logging.INFO)
  out, seed = Path(_OUT.value).absolute(), _SEED.value
  out.mkdir(parents=True, exist_ok=True)
  if any(out.iterdir()):
    raise app.UsageError(f"{out} is not empty: give a new folder with --out")
  # JAX takes seconds to import: bad flags are reported sooner. And this folder
  # is found next to the script only where that runs.
  import jax
  from tiny_models import clip, janus, judge, tokens, vqgan

  from genrec_jax.hf.export import export_generator
  from genrec_jax.hf.janus_processor import JanusProcessor

  start = time.time()
  tokenizer = tokens.train_tokenizer(tokens.CLIP_TOKENS, "eos_token", 32)
  clip.write(out / "tiny_clip", *clip.train(tokenizer, seed, 500), tokenizer)
  judge.write(out / "tiny_judge", judge.train(seed, 1000))
  vq_params = vqgan.train(seed, 1500)
  share = vqgan.share_read_right(vq_params)
  logging.info("attributes read right of reconstructions: %s", share)
  tokenizer = tokens.train_tokenizer(tokens.JANUS_TOKENS, "", 4096)
  with tempfile.TemporaryDirectory() as folder:
    source = Path(folder)
    janus.write_settings(source, janus.tiny_janus(tokenizer), tokenizer)
    processor = JanusProcessor.from_pretrained(source)
    model, params = janus.train(processor, vq_params, seed, 1500)
    export_generator(
      out / "tiny_base", model, jax.device_get(params), source, "bfloat16"
    )
  fine_tune(out, seed)
  logging.info("done in %.0f minutes", (time.time() - start) / 60)


if __name__ == "__main__":
  app.run(main)
