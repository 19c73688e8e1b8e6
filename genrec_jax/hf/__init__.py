"""Hugging Face checkpoints in and out; may import data, models and runtime."""
