"""Codes of the torch tool are those of transformers, and of our sampling."""

import numpy as np
import pytest
import torch

from genrec_jax.sampling import Sampling
from genrec_jax.testing import IMAGE
from tools import hf_inference
from tools.hf_inference import sampling as torch_sampling


def sample(model, prompt, **options):
  return hf_inference.sample_codes(
    model, prompt["input_ids"], prompt.get("pixel_values"), **options
  )


def test_text_prompts_generate_what_transformers_does(theirs):
  model, processor = theirs
  prompt = hf_inference.image_prompt(processor, [], [], "a blue cross")
  expected = model.generate(
    **prompt, generation_mode="image", guidance_scale=3, do_sample=False
  )
  found = sample(model, prompt, num=1, guidance=3, greedy=True)
  np.testing.assert_array_equal(found, expected)


@torch.no_grad()
def test_without_guidance_the_prompt_alone_counts(theirs, image_files):
  model, processor = theirs
  seen = hf_inference.open_images(image_files[:1])
  prompt = hf_inference.image_prompt(processor, ["a"], seen, "Draw.")
  codes = sample(model, prompt, num=1, guidance=1, greedy=True)
  # All at once, without a cache.
  embeds = model.get_input_embeddings()(prompt["input_ids"])
  features = model.model.get_image_features(
    prompt["pixel_values"], return_dict=True
  ).pooler_output
  slots = prompt["input_ids"][..., None] == IMAGE
  embeds = torch.cat(
    [
      embeds.masked_scatter(slots, features),
      model.prepare_embeddings_for_image_generation(codes[:, :-1]),
    ],
    1,
  )
  hidden = model.model.language_model(
    inputs_embeds=embeds, use_cache=False
  ).last_hidden_state[:, -codes.shape[1] :]
  np.testing.assert_array_equal(
    codes, model.model.generation_head(hidden).argmax(-1)
  )


@pytest.mark.parametrize(
  ("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (6, 0.5), (99, 1e-9)]
)
def test_codes_are_sampled_from_our_distribution(top_k, top_p):
  logits = np.random.default_rng(0).normal(0, 2, (4, 20)).astype(np.float32)
  logits[0, 3:9] = logits[0].max()  # equals stay or go together
  found = torch_sampling.probabilities(torch.tensor(logits), 0.8, top_k, top_p)
  expected = np.exp(
    Sampling(temperature=0.8, top_k=top_k, top_p=top_p).logprobs(logits)
  )
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_seed_decides_what_is_sampled(theirs):
  model, processor = theirs
  prompt = hf_inference.image_prompt(processor, [], [], "a blue cross")
  first, again, other = (
    sample(model, prompt, num=2, temperature=2, seed=seed).numpy()
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  assert (first[0] != first[1]).any()
