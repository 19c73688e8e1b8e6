"""Published sizes of Janus-Pro."""

from genrec_jax.models import llama, siglip, vqgan
from genrec_jax.models.janus import Janus


def _janus_pro(language: llama.Llama, pad_id: int, image_id: int) -> Janus:
  return Janus(
    language=language,
    vision=siglip.Siglip(),  # the defaults are those of both sizes
    tokenizer=vqgan.VQGAN(),
    bos_id=100000,
    pad_id=pad_id,
    boi_id=100016,
    image_id=image_id,
  )


def janus_pro_1b() -> Janus:
  """Returns the configuration of deepseek-community/Janus-Pro-1B.

  A checkpoint's own config and tokenizer are what loading it goes by.
  """
  return _janus_pro(
    llama.Llama(
      vocab_size=102400,
      width=2048,
      mlp_width=5632,
      num_layers=24,
      num_heads=16,
      num_kv_heads=16,
      head_width=128,
    ),
    pad_id=100002,
    image_id=100581,
  )


def janus_pro_7b() -> Janus:
  """Returns the configuration of deepseek-community/Janus-Pro-7B.

  A checkpoint's own config and tokenizer are what loading it goes by: they do
  not have the ids of the 1B model.
  """
  return _janus_pro(
    llama.Llama(
      vocab_size=102400,
      width=4096,
      mlp_width=11008,
      num_layers=30,
      num_heads=32,
      num_kv_heads=32,
      head_width=128,
    ),
    pad_id=100015,
    image_id=100594,
  )
