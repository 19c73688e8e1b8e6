"""RL options: how a step samples, rewards and updates, as one frozen value."""

from collections.abc import Mapping
import dataclasses

from genrec_jax.models.encoders import ImageEncoder
from genrec_jax.objectives import Objective, policy
from genrec_jax.objectives.pathwise import Pathwise
from genrec_jax.rewards import CLIP, WRITTEN, Question, Reward, Translator
from genrec_jax.sampling import Sampling, Titles


@dataclasses.dataclass(frozen=True)
class Reading:
  """How written titles are read: by CLIP, and by the model's own eyes."""

  translator: Translator
  question: Question | None  # None: its eyes are not asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLOptions:
  """Options of `rl.train_step`; configs/rl.py gives each value its reason.

  Attributes:
    seed: of the run; the step's key is folded from it.
    microbatches: equal parts of the P prompts that the passes over given codes,
      whose gradients need the memory, take one after another.
    sample: how images are sampled.
    titles: how titles before them are; None: there are none.
    rewards: by name, each with its weight.
    encoders: besides CLIP, of which some rewards are.
    objective: the loss.
    advantage: see `advantages.estimate`.
    normalise: see `advantages.combine`.
    scoring: 'guided', the distribution sampled from; 'conditional' leaves
      guidance out of ratio and KL, as T2I-R1 does.
    stop_unconditional_gradient: see `sampling.score_images`.
    inner_epochs: updates on one rollout, >= 1.
    sampler_weight_cap: see `mismatch.truncated_weights`; 0: no such weights.
      Only with guided scoring, that of the sampler.
    rollout_type: 'compute'; 'int8_weights', to sample from weights in eight
      bits, or 'int8', from keys and values in eight bits as well. Then the
      sampler is another policy than is trained, and codes must be weighed.
    kl_of: 'scored', the distribution that is scored; 'branches', each of
      guidance's two by itself. The first has a null space: a drift of the
      unconditional branch u by d and of the conditional one c by
      d (guidance - 1) / guidance leaves u + guidance (c - u) as it was.
    reading: how written titles are read; None: no reward asks for it.
    pathwise: how gradients of rewards through the image enter the loss; None:
      the score estimator alone.

  Raises:
    ValueError: see `policy.contradictions`.
  """

  seed: int
  microbatches: int
  sample: Sampling
  rewards: Mapping[str, Reward]
  encoders: Mapping[str, ImageEncoder] = dataclasses.field(default_factory=dict)
  objective: Objective
  advantage: str
  normalise: str
  scoring: str
  stop_unconditional_gradient: bool
  inner_epochs: int
  sampler_weight_cap: float
  kl_of: str
  rollout_type: str = "compute"
  pathwise: Pathwise | None = None
  titles: Titles | None = None
  reading: Reading | None = None

  def __post_init__(self) -> None:
    """Refuses what no step can do; a config is checked before."""
    problems = policy.contradictions(
      scoring=self.scoring,
      kl_of=self.kl_of,
      sampler_weight_cap=self.sampler_weight_cap,
      guidance=self.sample.guidance,
      rollout_type=self.rollout_type,
    )
    if problems:
      raise ValueError("; ".join(problems))

  @property
  def sampled(self) -> Sampling:
    """How images are sampled, as `sample`, and what keys and values are in."""
    narrow = self.rollout_type == "int8"
    return dataclasses.replace(self.sample, int8_cache=narrow)

  @property
  def scored(self) -> Sampling:
    """The distribution that ratio and KL are of."""
    if self.scoring == "guided":
      return self.sample
    return dataclasses.replace(self.sample, guidance=1.0)

  @property
  def weights(self) -> dict[str, float]:
    """The rewards' weights, by name."""
    return {name: reward.weight for name, reward in self.rewards.items()}

  @property
  def looking(self) -> frozenset[str]:
    """The encoders that some reward reads, CLIP among them or not.

    And, as `rewards.views` names them, others that look at samples.
    """
    found = frozenset(reward.encoder for reward in self.rewards.values())
    # A title is compared with its image, and with the next title.
    return found | {CLIP} if WRITTEN in found else found
