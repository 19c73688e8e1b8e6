"""Tokenizers: special tokens and byte pairs of the world's titles."""

from collections.abc import Mapping, Sequence

import tokenizers
import transformers

from .training import titles

INSTRUCTIONS = (
  "Draw the next item that this user will like.",
  "Describe the image.",
)
CLIP_TOKENS = {
  "bos_token": "<|startoftext|>",
  "eos_token": "<|endoftext|>",
  "pad_token": "<|pad|>",
}
JANUS_TOKENS = {
  "bos_token": "<｜begin▁of▁sentence｜>",
  "eos_token": "<｜end▁of▁sentence｜>",
  "pad_token": "<｜▁pad▁｜>",
  "image_token": "<image_placeholder>",
  "boi_token": "<begin_of_image>",
  "eoi_token": "<end_of_image>",
  "user_token": "<|User|>",
  "assistant_token": "<|Assistant|>",
}
EMU3_TOKENS = {
  "bos_token": "<|extra_203|>",
  "eos_token": "<|extra_204|>",
  "pad_token": "<|endoftext|>",
  "image_token": "<image>",
  "boi_token": "<|image start|>",
  "eoi_token": "<|image end|>",
  "image_wrapper_token": "<|image token|>",
  "eof_token": "<|extra_201|>",
}


def train_tokenizer(
  special: Mapping[str, str],
  suffix: str,
  max_length: int,
  *,
  more: Sequence[str] = (),
  texts: tuple[str, ...] = INSTRUCTIONS,
) -> transformers.PreTrainedTokenizerFast:
  """Trains a byte-level BPE on the world's titles; any text can be encoded.

  Args:
    special: names (as transformers has them, 'bos_token' ...) to tokens.
    suffix: 'eos_token' or '', what to append to each text besides BOS first.
    max_length: tokens of the longest text.
    more: tokens without a name.
    texts: what prompts have besides titles.
  """
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=512,  # at most
    special_tokens=[*special.values(), *more],
    # Every byte, or other texts could not be written.
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  # Repeated, for the texts to be few tokens next to 2,880 titles.
  model.train_from_iterator([*titles(), *texts * 100], trainer)
  ends = ["bos_token", "$A", *([suffix] if suffix else [])]
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single=" ".join(special.get(end, end) for end in ends),
    special_tokens=[
      (special[end], model.token_to_id(special[end]))
      for end in ends
      if end in special
    ],
  )
  # Those that transformers knows; the others are attributes by these names.
  named = ("bos_token", "eos_token", "pad_token")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    model_max_length=max_length,
    padding_side="left",
    extra_special_tokens={
      name: token for name, token in special.items() if name not in named
    },
    **{name: token for name, token in special.items() if name in named},
  )
