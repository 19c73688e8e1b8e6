"""Hugging Face checkpoints in and out; may import data, models and runtime."""

import logging


def _wanted(record: logging.LogRecord) -> bool:
  return not record.getMessage().startswith("PyTorch was not found")


# transformers warns when it is imported, if torch is absent, that its models
# need it. They are not used here.
logging.getLogger("transformers").addFilter(_wanted)
