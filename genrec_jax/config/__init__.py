"""Config: the flag --config, the values that its keys may have, and what a run
adds to them; may import hf, data and rewards.
"""

from genrec_jax.config.checks import TASKS, check

__all__ = ["TASKS", "check"]
