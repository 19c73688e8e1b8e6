"""Values that the configs share; each config adds its own.

Every value stands in one place: here, where training and evaluation must agree
or have no reason to differ; in the config's own file otherwise.
"""

from ml_collections import ConfigDict

# Published models, on prepared data.
MODELS = ("janus_pro_1b", "janus_pro_7b", "emu3")
VARIANTS = ("debug", "emu3_tiny", *MODELS)


def base(task: str, variant: str) -> ConfigDict:
  """Returns the sections that `task` shares with the others.

  Args:
    task: 'sft', 'rl' or 'evaluate'.
    variant: '' for the bundled tiny Janus on the synthetic world, 'emu3_tiny'
      for the tiny Emu3, 'debug' for the first in a few steps, or a real model
      on prepared data.

  Raises:
    ValueError: an unknown variant.
  """
  if variant and variant not in VARIANTS:
    raise ValueError(
      f"unknown variant {variant!r} of configs/{task}.py: expected none or one"
      f" of {', '.join(VARIANTS)}"
    )
  config = ConfigDict()
  config.task = task
  config.workdir = f"runs/{task}_{variant}" if variant else f"runs/{task}"
  config.seed = 0  # of sampling, shuffling and the bootstrap

  config.model = ConfigDict()
  # HF-format folder, workdir of ours, or a bundled name.
  config.model.checkpoint = "tiny_sft"
  config.model.dtype = "float32"  # CPUs compute bfloat16 slowly
  # Pixels per side of images, generated and of a history, where the model
  # leaves a choice as Emu3 does; 0: those of the checkpoint.
  config.model.image_size = 0
  config.model.read_size = 0
  # image | title_image: what a generated item is; docs/titles.md. A run from a
  # workdir goes on with its answer, and with the next.
  config.model.answer = "image"
  # Of a title with its end; one that is longer is cut off, and counted.
  config.model.title_tokens = 16  # the world's longest has 9

  config.clip = ConfigDict()
  config.clip.checkpoint = "tiny_clip"  # of rewards and evaluation; frozen
  config.clip.dtype = "float32"  # cosines differ in the third digit

  config.data = ConfigDict()
  # Folder that tools/prepare_data.py made. '': the data of the checkpoint if it
  # is a workdir, else the synthetic world, which the next four keys describe;
  # 'synthetic': that world in any case.
  config.data.path = ""
  # Text to image without users: a file of one prompt a line, or a JSONL of
  # "title" and perhaps "image"; docs/rewards.md. '': users.
  config.data.prompts = ""
  config.data.num_users = 4608  # 78,000 windows, each seen once at most
  config.data.held_out = 1024  # besides those; as many as evaluation reads
  config.data.num_events = 24  # several drifts of a want per user
  config.data.seed = 0  # apart from `seed`: runs differ, users stay
  config.data.history_length = 5  # wants drift every dozen events
  config.data.future_horizon = 3  # less noise than one next item alone
  # pad | drop; windows with fewer items before the target: masked or left out
  config.data.short_histories = "pad"
  config.data.instruction = (  # after the history; any wording, but one
    "Draw the next item that this user will like."
  )

  config.sample = ConfigDict()
  config.sample.num_samples = 4  # images per user; enough to see diversity
  # Off: half the cost, and samples as varied as users' next items. At 3 SFT
  # alone shows .87 of the wants, not .73, and RL would have little to add.
  config.sample.guidance = 1.0
  config.sample.temperature = 1.0  # the distribution as trained
  config.sample.top_k = 0  # off: a cut code could never be learned again
  config.sample.top_p = 1.0  # off, for the same reason

  config.mesh = ConfigDict()
  config.mesh.data = -1  # all devices that `model` leaves
  config.mesh.model = 1  # small layers gain nothing from tensor parallelism
  config.mesh.slices = 1  # TPU slices; examples only are split over them

  config.eval = ConfigDict()
  # Encoders that judge and never reward: HF folders of CLIP, SigLIP or DINOv2,
  # names on the hub or bundled ones; docs/evaluation.md names some.
  config.eval.judges = ("tiny_judge",)
  # Rows of the table for what these would show instead of a generated image, by
  # name in genrec_jax/rows.py; fitted to the training data at each evaluation.
  config.eval.recommenders = (
    "most_popular",
    "item_knn",
    "content_knn",
    "sasrec",
  )
  # Folder of a CLIP that people's choices trained, such as
  # yuvalkirstain/PickScore_v1: what they would think of an image for its title.
  config.eval.quality = ""  # none
  config.eval.users = 256  # held-out; intervals of about +-0.03
  config.eval.batch_size = 32  # users whose images are generated at once
  # Others that all models but the base are sampled at, such as (0.5, 0.7, 1.5),
  # to plot alignment against diversity; each is as long as the table's own.
  config.eval.temperatures = ()
  # Whether models are asked for the titles of real images: does training cost
  # them what they understand?
  config.eval.captions = True
  # Users whose images are kept in images.parquet, for a study with people.
  config.eval.keep_images = 64

  if variant == "debug":  # as little as still goes through every part
    config.data.num_users = 64
    config.data.held_out = 16
    config.sample.num_samples = 2
    config.sample.guidance = 3.0  # so that both branches are gone through
    config.eval.users = 8
    config.eval.batch_size = 8
    # Training the fourth would take longer than all other parts.
    config.eval.recommenders = ("most_popular", "item_knn", "content_knn")
    config.eval.captions = False  # one more graph to compile
  elif variant == "emu3_tiny":
    config.model.checkpoint = "tiny_emu3"
  elif variant:
    config.model.checkpoint = ""  # yours; see the command of each config
    config.model.dtype = "bfloat16"  # what accelerators multiply fast
    config.model.title_tokens = 32  # most product names; longer prompts cost
    config.clip.checkpoint = ""  # such as openai/clip-vit-large-patch14
    config.eval.judges = ()  # such as ("facebook/dinov2-base",)
    config.sample.guidance = 5.0  # Janus-Pro's own default
    config.mesh.model = 1 if variant == "janus_pro_1b" else 4  # 7B: 4 shards
    if variant == "emu3":
      config.model.image_size = 256  # 1,056 tokens
      # 272 tokens: a history of five and the target fill a quarter of the
      # context; at the target's own size they would fill two thirds.
      config.model.read_size = 128
      config.sample.guidance = 3.0  # its authors' own
    config.eval.users = 1024  # prepared data has users enough
  return config


def is_emu3(variant: str) -> bool:
  """Returns whether a variant is of Emu3, small or not."""
  return variant in ("emu3", "emu3_tiny")


def copy_threshold(variant: str) -> float:
  """Returns the CLIP cosine from which a generated image is a copy.

  It should separate items' VQ reconstructions from other items, and every run
  prints the cosines of both; see `evals/calibration.py`. Of the tiny Janus 99 %
  of the first are above 0.991, of the tiny Emu3 above 0.957; 99.9 % of the
  second are below 0.82. For photos 0.95 is a guess until a run has printed
  them.
  """
  return 0.97 if variant in ("", "debug") else 0.95


def trainable(variant: str) -> tuple[str, ...]:
  """Returns patterns of the parameters that generate images.

  Janus has a table and a head for codes besides those of words. Emu3 has one of
  each, so that what is generated and what is read are trained together.
  """
  if is_emu3(variant):
    return ("^language/",)
  return ("^language/", "^image_head/")


def training(task: str, variant: str) -> ConfigDict:
  """Returns the sections that SFT and RL share: `base` and training steps.

  How many steps, and how often to log, evaluate and save, is left to each
  config, except for 'debug'.
  """
  config = base(task, variant)
  config.model.remat = "full"  # on CPUs, too, faster than storing
  # LoRA: instead of `trainable`, adapters of this rank on those kernels of the
  # language model's layers that it names; 0 trains in full. Adapters take ten
  # times the learning rate: 1e-4 for SFT and 1e-5 for RL of a real model.
  config.model.lora_rank = 0

  config.data.batch_size = 32  # prompts a step, over all devices
  # Gradient accumulation: parts of a batch, one after another; less memory.
  config.data.microbatches = 1
  config.data.workers = 0  # reading processes; 32 px PNGs decode in place

  config.optim = ConfigDict()
  config.optim.b1 = 0.9  # Adam's usual
  config.optim.b2 = 0.95  # forgets faster than 0.999, for short runs
  config.optim.weight_decay = 0.0  # fine-tuning should stay near its start
  config.optim.grad_norm = 1.0  # bounds the odd batch

  config.train = ConfigDict()
  config.train.keep = 2  # the newest, and one before in case
  # Step to trace, into WORKDIR/profile; tools/step_phases.py reads it; 0: none.
  config.train.profile = 0

  config.eval.users_during = 64  # in mid-run evaluations, to be quick

  if variant == "debug":
    config.data.batch_size = 8
    config.train.steps = 4
    config.train.log_every = 1
    config.train.eval_every = 2
    config.train.checkpoint_every = 2
    config.eval.users_during = 8
  elif variant in MODELS:
    config.data.batch_size = 64  # divisible by small pods
    config.data.workers = 8  # photos take time to decode
  return config
