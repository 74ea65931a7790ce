"""Objects, backgrounds and boundaries of label maps worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import disk

from sr_jax.ops import regions as regions_lib
from sr_jax.ops.regions import BACKGROUND, NAMES, dilate

regions = jax.jit(regions_lib.regions, static_argnames='radius')
PERSON, SKY, SEA = 1, 157, 155
# A person in the corner of a sky.
CORNER = np.full((1, 5, 6), SKY, np.uint8)
CORNER[0, 2:, 3:] = PERSON
# A sea of two columns, one pixel without a label, and a person.
SHORE = np.array([[[SEA, SEA, 0, PERSON, PERSON, PERSON]]], np.uint8)
LETTERS = {'boundary': '#', 'background': '.', 'object': 'o'}


def drawn(labels, radius):
  """Draws the regions of the first image as letters, one per pixel."""
  masks = regions(labels, radius)
  assert set(masks) == set(NAMES)
  letters = np.full(labels.shape, '', dtype='U3')
  for name, mask in masks.items():
    assert mask.shape == (*labels.shape, 1)
    assert mask.dtype == jnp.float32
    assert set(np.unique(mask)) <= {0.0, 1.0}
    letters = np.char.add(letters, np.where(mask[..., 0], LETTERS[name], ''))
  return [''.join(row) for row in letters[0]]


@pytest.mark.parametrize(
  ('labels', 'radius', 'picture'),
  [
    (CORNER, 0, ['......', '...###', '..####', '..##oo', '..##oo']),
    # The disk of radius 1 is a cross.
    (CORNER, 1, ['...###', '..####', '.#####', '.#####', '.####o']),
    (CORNER, 2, ['..####', '.#####', '######', '######', '######']),
    (SHORE, 0, ['.###oo']),
    (SHORE, 1, ['#####o']),
    # One class all over has no edge, at the border of the image neither.
    (np.full((1, 2, 3), SKY, np.uint8), 3, ['...', '...']),
    (np.full((1, 2, 3), PERSON, np.uint8), 3, ['ooo', 'ooo']),
    (np.zeros((1, 2, 3), np.uint8), 3, ['ooo', 'ooo']),
  ],
)
def test_pictures_by_hand(labels, radius, picture):
  assert drawn(labels, radius) == picture


def test_ids_of_the_four_backgrounds():
  """By their names in COCO-Stuff's list."""
  assert len(set(BACKGROUND)) == len(BACKGROUND) == 27
  ids = {'sky-other': 157, 'sea': 155, 'road': 149, 'tree': 169, 'snow': 159}
  others = {'person': 1, 'none': 0, 'wall-wood': 177, 'fence': 113, 'rug': 152}
  for wanted, members in (('.', ids), ('o', others)):
    for name, number in members.items():
      found = drawn(np.full((1, 1, 1), number, np.uint8), 2)
      assert found == [wanted], name


def test_an_edge_between_two_backgrounds_is_a_boundary():
  assert drawn(np.array([[[SEA, SEA, SKY, SKY]]], np.uint8), 0) == ['.##.']


@settings(max_examples=20, deadline=None)
@given(
  seed=st.integers(0, 1000),
  shape=st.sampled_from([(2, 12, 5), (1, 1, 8)]),
  radius=st.sampled_from([0, 1, 3]),
)
def test_against_scipy_and_a_partition_of_every_pixel(seed, shape, radius):
  rng = np.random.default_rng(seed)
  labels = rng.choice(np.array([0, 1, 3, 155, 157, 169], np.uint8), shape)
  labels = labels[:, :: 1 + seed % 2].repeat(1 + seed % 2, 1)[:, : shape[1]]
  masks = regions(labels, radius)
  np.testing.assert_array_equal(sum(masks.values()), 1)
  cross = ndimage.generate_binary_structure(2, 1)
  for i, image in enumerate(labels):
    spread = [
      f(image, footprint=cross, mode='nearest')
      for f in (ndimage.maximum_filter, ndimage.minimum_filter)
    ]
    outline = spread[0] != spread[1]
    wide = ndimage.binary_dilation(outline, disk(radius))
    np.testing.assert_array_equal(masks['boundary'][i, ..., 0], wide)
    ground = np.isin(image, BACKGROUND) & ~wide
    np.testing.assert_array_equal(masks['background'][i, ..., 0], ground)


def test_masks_turn_with_the_labels():
  labels = jnp.asarray(CORNER[:, :5, :5])
  for turned in (lambda x: x[:, ::-1], lambda x: x.swapaxes(1, 2)):
    one, two = regions(turned(labels), 1), regions(labels, 1)
    for name in NAMES:
      np.testing.assert_array_equal(one[name], turned(two[name]))


def test_disk_of_one_pixel():
  point = np.zeros((1, 9, 11), bool)
  point[0, 4, 5] = True
  found = np.asarray(dilate(jnp.asarray(point), 3))[0]
  np.testing.assert_array_equal(found[1:8, 2:9], disk(3))
  assert found.sum() == disk(3).sum()
