import numpy as np
from PIL import Image
import pytest

from genrec_jax.data import world

ALL = np.arange(world.NUM_ITEMS)


@pytest.fixture(scope="module")
def renders():
  return world.render(world.attributes(ALL))


def _accuracy(images, items=ALL):
  right = world.read(images) == world.attributes(items)
  return np.mean(np.all(right, axis=-1))


def test_items_are_many_and_all_different(renders):
  assert world.NUM_ITEMS == 2880
  assert renders.shape == (2880, 32, 32, 3)
  assert renders.dtype == np.uint8
  assert len(np.unique(renders.reshape(2880, -1), axis=0)) == 2880
  titles = {world.title(attrs) for attrs in world.attributes(ALL)}
  assert len(titles) == 2880


def test_attributes_and_index_are_inverse():
  np.testing.assert_array_equal(world.item_index(world.attributes(ALL)), ALL)
  with pytest.raises(IndexError, match=r"expected 0\.\.2879"):
    world.attributes(2880)


def test_title_names_what_the_attributes_say():
  assert world.title([0, 0, 1, 0, 2]) == "large red striped circle on sand"
  words = [word for words in world.ATTRIBUTES.values() for word in words]
  assert len(set(words)) == len(words) == 26


def test_one_render_equals_the_same_in_a_batch(renders):
  image = world.render(world.attributes(1234))
  assert image.shape == (32, 32, 3)
  np.testing.assert_array_equal(image, renders[1234])


def test_an_image_shows_its_attributes():
  attrs = np.asarray([1, 0, 0, 5, 1])  # medium red solid square on coal
  image = world.render(attrs).astype(int)
  red, coal = image[16, 16], image[0, 0]
  assert red[0] > 200 > 60 > max(red[1:])
  assert max(coal) < 60
  painted = [
    np.sum(np.any(world.render([*attrs[:4], size]) != coal, axis=-1))
    for size in range(3)
  ]
  assert painted[0] * 1.5 < painted[1] < painted[2] / 1.4


def test_reads_every_render_exactly(renders):
  assert _accuracy(renders) == 1


@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_reads_blurred_and_noisy_renders(renders, sigma):
  some = renders[::3]
  noise = np.random.default_rng(0).normal(0, 15, some.shape)
  blurred = np.clip(world._blur(some, sigma) + noise, 0, 255)
  assert _accuracy(blurred.astype(np.uint8), ALL[::3]) >= 0.97


def test_reads_other_sizes(renders):
  for side in (48, 96, 24):
    resized = np.stack(
      [
        np.asarray(Image.fromarray(image).resize((side, side)))
        for image in renders[::7]
      ]
    )
    assert _accuracy(resized, ALL[::7]) >= 0.97
  assert world.read(np.zeros((0, 48, 48, 3), np.uint8)).shape == (0, 5)


def test_read_refuses_other_pixels(renders):
  with pytest.raises(ValueError, match=r"float64.*expected uint8"):
    world.read(renders[:2] / 255)


def test_preference_match_is_the_share_of_wants_met():
  attrs = np.asarray([[1, 2, 3, 0, 0], [1, 2, 0, 5, 2]])
  wants = np.asarray([[1, 2, 3], [0, 2, 1]])
  match = world.preference_match(attrs, wants)
  np.testing.assert_allclose(match, [1, 1 / 3])
  assert match.dtype == np.float32


def test_titles_are_read_back_and_other_texts_in_part():
  for index in (0, 17, world.NUM_ITEMS - 1):
    attrs = world.attributes(index)
    np.testing.assert_array_equal(world.read_title(world.title(attrs)), attrs)
  assert world.read_title("red cross or blue").tolist() == [4, -1, -1, -1, -1]
  assert world.read_title("").tolist() == [-1] * 5
