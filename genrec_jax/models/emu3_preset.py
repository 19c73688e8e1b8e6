"""The published size of Emu3."""

from genrec_jax.models.emu3 import Emu3
from genrec_jax.models.llama import Llama
from genrec_jax.models.movqgan import MoVQGAN


def emu3(image_size: int = 256, read_size: int = 128) -> Emu3:
  """Returns the configuration of BAAI/Emu3-Gen-hf and BAAI/Emu3-Chat-hf.

  A checkpoint's own config and tokenizer are what loading it goes by.

  Args:
    image_size: pixels per side of generated images.
    read_size: the same of images in a prompt.
  """
  side = image_size // 8
  # In the order of bytes: '*' and the digits.
  size = [9 if x == "*" else 15 + int(x) for x in f"{side}*{side}"]
  pad, place, row_end, frame_end, bos = 151643, 151646, 151846, 151847, 151849
  wrapper, begin, end = 151851, 151852, 151853
  return Emu3(
    language=Llama(
      vocab_size=184622,
      width=4096,
      mlp_width=14336,
      num_layers=32,
      num_heads=32,
      num_kv_heads=8,
      head_width=128,
      rope_base=1e6,
      norm_epsilon=1e-5,
    ),
    tokenizer=MoVQGAN(),
    bos_id=bos,
    pad_id=pad,
    image_id=place,
    row_end_id=row_end,
    image_begin=(begin, *size, wrapper),
    code_ids=range(151854, 184622),
    silent_ids=(pad, place, row_end, frame_end, bos, wrapper, end),
    image_size=image_size,
    read_size=read_size,
  )
