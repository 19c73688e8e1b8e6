"""Writes a trained model in Hugging Face format.

    python tools/export_hf.py --workdir=runs/rl --out=DIR [--dtype=bfloat16]

`transformers.JanusForConditionalGeneration.from_pretrained(DIR)` loads it, with
torch and without JAX. DIR appears when it is whole and not before. How a run
sampled goes along, in generation_config.json; its instruction does not.
"""

from absl import flags

from genrec_jax.core import files
from genrec_jax.runtime import cli, path_flags

_WORKDIR = path_flags.path_flag(
  "workdir",
  None,
  "A run's folder; a model in HF format will do, to change its type.",
  required=True,
)
_OUT = path_flags.path_flag(
  "out", None, "Folder to write, absent or empty.", required=True
)
_DTYPE = flags.DEFINE_enum(
  "dtype",
  None,
  ["float32", "bfloat16", "float16"],
  "Of the weights; by default as they were before training.",
)


def main() -> None:
  """Exports a workdir."""
  files.check_unused(_OUT.value)
  # JAX takes seconds to import: bad flags are reported sooner.
  import jax

  from genrec_jax.hf import export, load, workdir_model

  # Nothing is computed, and an accelerator may have less memory.
  jax.config.update("jax_platforms", "cpu")
  opened = load.open_generator(_WORKDIR.value, dtype="float32")
  said, instruction = workdir_model.sampling_settings(_WORKDIR.value)
  export.export_checkpoint(_OUT.value, opened, _DTYPE.value, sampling=said)
  # A parameter of a stack of layers is as many tensors as layers.
  tensors = {path: len(p.tensors) for path, p in opened.stored.items()}
  trained = sum(tensors[path] for path in opened.trained)
  print(
    f"{_OUT.value}: {sum(tensors.values())} tensors, {trained} of them trained"
  )
  if instruction:
    print(f"its prompts end with {instruction!r}: give tools that as --prompt")


if __name__ == "__main__":
  cli.run(main)
