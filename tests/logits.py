"""Logits of given image codes, as a reference for sampling and scoring."""


def code_logits(model, params, prompt, codes):
  """Returns teacher-forced logits [P, G, I, C] of codes [P, G, I]."""
  embeds = model.embed(params, prompt)
  hidden = model.teacher_forced_hidden(params, embeds, prompt.mask, codes)
  return model.image_vocabulary.logits(params, hidden)
