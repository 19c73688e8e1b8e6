"""Titles and their images by the torch tool are ours."""

import jax
import numpy as np

from genrec_jax import sampling
from genrec_jax.core.types import Prompt
from genrec_jax.hf.load import load_generator
from genrec_jax.sampling import Sampling
from genrec_jax.testing import BOI, EOS
from tools import hf_inference

TITLES = ["a red cross", "", "blue <image_placeholder> circle"]


def test_titles_and_their_images_are_ours(folder, image_files):
  ours = load_generator(folder, dtype="float32")
  model, processor = hf_inference.load(folder)
  seen = hf_inference.open_images(image_files)
  inputs = hf_inference.image_prompt(processor, TITLES, seen, "Draw.")
  ids = np.asarray([ours.processor.prompt_ids(TITLES, "Draw.")[:-1]], np.int32)
  images = np.stack([ours.processor.pixels(image) for image in seen])
  prompt = Prompt(ids=ids, mask=np.ones_like(ids, bool), images=images[None])

  def compare(ends):
    """Returns the words of the one title that both write."""
    model.generation_config.eos_token_id = list(ends)
    rollout = jax.jit(
      lambda params: sampling.sample_items(
        ours.model,
        params,
        prompt,
        jax.random.key(0),
        Sampling(num_samples=2, guidance=5.0, greedy=True),
        sampling.Titles(max_tokens=6, end_ids=(BOI, *ends)),
      )
    )(ours.params)
    titles, codes = hf_inference.sample_items(
      model,
      inputs["input_ids"],
      inputs["pixel_values"],
      max_tokens=6,
      num=2,
      guidance=5.0,
      greedy=True,
    )
    for sample, words in enumerate(titles):
      real = np.asarray(rollout.title.words[0, sample])
      assert np.asarray(rollout.title.tokens[0, sample])[real].tolist() == words
    np.testing.assert_array_equal(codes, rollout.codes[0])
    return titles[0], codes

  whole, codes = compare([EOS])
  assert len(whole) == 6  # a random model's has no end and is cut off
  short, others = compare([EOS, whole[3]])
  assert short == whole[: whole.index(whole[3])]
  assert (codes != others).any()  # the image sees its title
