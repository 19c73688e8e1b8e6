"""Objectives: advantages, ratios, KL estimators and the policy loss, all pure
functions of arrays that know no model; may import groups.
"""

from genrec_jax.objectives.policy import Objective, policy_loss

__all__ = ["Objective", "policy_loss"]
