"""Settings of image processors, in the forms that folders have."""

import pytest

from genrec_jax.hf.image_processor import preprocessing, settings_of
from genrec_jax.models.pixels import Preprocessing

SQUARE = Preprocessing((20, 20), 20, (0.5,) * 3, (0.5,) * 3, "linear")
CROPPED = Preprocessing(24, 20, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
  ("pixels", "kind"), [(SQUARE, "Siglip"), (CROPPED, "Bit")]
)
def test_there_and_back(pixels, kind):
  assert preprocessing(settings_of(pixels, kind), kind) == (pixels, [])


@pytest.mark.parametrize(
  ("size", "crop", "resize", "side"),
  [
    (24, 20, 24, 20),
    ({"shortest_edge": 24}, {"height": 20, "width": 20}, 24, 20),
    ({"height": 22, "width": 24}, 20, (22, 24), 20),
  ],
)
def test_forms_of_sizes(size, crop, resize, side):
  found, problems = preprocessing({"size": size, "crop_size": crop}, "Bit")
  assert not problems
  assert (found.resize, found.crop) == (resize, side)


@pytest.mark.parametrize(
  ("settings", "problem"),
  [
    ({"size": {"longest_edge": 20}}, "size is {'longest_edge': 20}; expected"),
    ({"size": 20, "crop_size": 24}, "size 20 and crop_size 24"),
    ({"size": 24, "crop_size": {"height": 2, "width": 3}}, "equal height"),
    ({"size": 24, "do_center_crop": False}, "size 24 and crop_size"),
    ({"resample": 1}, "resample is 1; expected 2, bilinear, or 3"),
    ({"rescale_factor": 1}, "rescale_factor is 1; expected 1/255"),
    ({"do_resize": False}, "do_resize is false; expected true"),
    (
      {"image_processor_type": "ViTImageProcessor"},
      "'ViTImageProcessor'; expected BitImageProcessor or Siglip",
    ),
  ],
)
def test_what_is_not_done_here(settings, problem):
  found, problems = preprocessing(settings, "Bit")
  assert found is None
  assert any(problem in line for line in problems), problems


def test_the_class_s_defaults_are_transformers():
  from transformers.models.bit.image_processing_pil_bit import (
    BitImageProcessorPil,
  )
  from transformers.models.siglip.image_processing_pil_siglip import (
    SiglipImageProcessorPil,
  )

  for kind, processor in (
    ("Bit", BitImageProcessorPil()),
    ("Siglip", SiglipImageProcessorPil()),
  ):
    filled = processor.to_dict()
    bare = {"image_processor_type": filled["image_processor_type"]}
    for other in ("Bit", "Siglip"):  # what it says goes before the format
      assert preprocessing(bare, other) == preprocessing(filled, kind)
    fast = {"image_processor_type": f"{kind}ImageProcessorFast"}
    assert preprocessing(fast, "Bit") == preprocessing(filled, kind)
    assert not preprocessing(filled, kind)[1]
