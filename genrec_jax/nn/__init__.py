"""Layers that models are made of: attention, norms, LoRA; may import core."""
