"""Batches are a pure function of (seed, step), on host and device."""

import collections
import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_jax.data import draws
from sr_jax.data.batches import BatchSpec, batches, fixed_crops, sample
from sr_jax.data.sources import ImageSource, MixedSource, PairedSource
from sr_jax.errors import UserError


def _source(images):
  return ImageSource(
    names=tuple(f'{i}.png' for i in range(len(images))),
    openers=tuple((lambda image=image: image) for image in images),
  )


def _coordinates(height, width, index):
  """An image whose pixel values are their position: (row, column, image)."""
  image = np.empty((height, width, 3), np.uint8)
  image[..., 0] = np.arange(height)[:, None]
  image[..., 1] = np.arange(width)
  image[..., 2] = index
  return image


PHOTOS = _source([_coordinates(40 + 3 * i, 60 - 4 * i, i) for i in range(5)])


def _spec(**overrides):
  options = {'batch_size': 8, 'patch': 8, 'scales': (2,), 'seed': 3}
  return BatchSpec(**{**options, **overrides})


def _variants(image):
  """The eight flips and rotations of a square, by np.rot90."""
  return [
    np.rot90(side, turns)
    for side in (image, image[:, ::-1])
    for turns in range(4)
  ]


def _assert_same(first, second):
  assert first.keys() == second.keys()
  for key in first:
    np.testing.assert_array_equal(first[key], second[key])


# What a batch is


def test_shapes_and_dtype():
  batch, scale = sample(PHOTOS, _spec(scales=(3,)), 0)
  assert scale == 3
  assert batch.keys() == {'hr'}
  assert batch['hr'].shape == (8, 24, 24, 3)
  assert batch['hr'].dtype == np.uint8
  assert batch['hr'].flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(
  height=st.integers(12, 60),
  width=st.integers(12, 60),
  patch=st.integers(1, 4),
  scale=st.integers(1, 3),
  augment=st.booleans(),
  step=st.integers(0, 2**63),
  seed=st.integers(0, 2**64 - 1),
)
def test_crops_are_pieces_of_the_image(
  height, width, patch, scale, augment, step, seed
):
  image = _coordinates(height, width, 7)
  spec = _spec(
    batch_size=3, patch=patch, scales=(scale,), augment=augment, seed=seed
  )
  batch, _ = sample(_source([image]), spec, step)
  size = patch * scale
  for crop in batch['hr']:
    top, left = crop[..., 0].min(), crop[..., 1].min()
    piece = image[top : top + size, left : left + size]
    choices = _variants(piece) if augment else [piece]
    assert any(np.array_equal(crop, choice) for choice in choices)


def test_every_image_position_and_variant_is_drawn_equally_often():
  size = 4
  source = _source([_coordinates(6, 7, i) for i in range(3)])
  draws = collections.Counter()
  variants = collections.Counter()
  for step in range(60):
    batch, _ = sample(source, _spec(batch_size=64, patch=2), step)
    for crop in batch['hr']:
      top, left = int(crop[..., 0].min()), int(crop[..., 1].min())
      index = int(crop[0, 0, 2])
      draws[index, top, left] += 1
      piece = source[index][top : top + size, left : left + size]
      matches = [np.array_equal(crop, v) for v in _variants(piece)]
      variants[matches.index(True)] += 1
  count = 60 * 64
  # The chi-square statistic stays below its 99.9 % quantile.
  for counter, cells, quantile in ((draws, 36, 66.6), (variants, 8, 24.3)):
    assert len(counter) == cells
    expected = count / cells
    statistic = sum((n - expected) ** 2 / expected for n in counter.values())
    assert statistic < quantile


def test_random_words_are_philox_4x64_10():
  """Against the algorithm as its paper states it (Salmon et al. 2011)."""
  mask = 2**64 - 1

  def philox(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
      first, second = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
      c0, c1, c2, c3 = (
        (second >> 64) ^ c1 ^ k0,
        second & mask,
        (first >> 64) ^ c3 ^ k1,
        first & mask,
      )
      k0 = (k0 + 0x9E3779B97F4A7C15) & mask
      k1 = (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]

  for seed, stream, step, example in [
    (0, 0, 0, 0),
    (5, 1, 77, 3),
    (2**64 - 1, 0, 2**40, 1000),
  ]:
    words = draws.random_words(seed, stream, step, example)
    # NumPy counts up before its first block.
    assert words == philox((1, example, step, 0), (seed, stream))


def _labelled(source):
  """A source with label maps whose ids encode row, column and image."""
  images = source.hr if isinstance(source, PairedSource) else source
  maps = [_ids(image)[..., None] for image in images]
  labels = tuple((lambda labels=labels: labels) for labels in maps)
  images = dataclasses.replace(images, labels=labels)
  if isinstance(source, PairedSource):
    return dataclasses.replace(source, hr=images)
  return images


def _ids(image):
  """One id for every pixel of `_coordinates`."""
  row, column, index = np.moveaxis(image.astype(int), -1, 0)
  return ((7 * row + 11 * column + 13 * index) % 183).astype(np.uint8)


@pytest.mark.parametrize('augment', [True, False])
@pytest.mark.parametrize('paired', [True, False])
def test_labels_are_cropped_and_turned_with_the_image(augment, paired):
  source = _labelled(_pairs() if paired else PHOTOS)
  spec = _spec(scales=(2,), augment=augment)
  for step in range(4):
    batch, _ = sample(source, spec, step)
    assert batch['labels'].shape == (8, 16, 16, 1)
    assert batch['labels'].dtype == np.uint8
    np.testing.assert_array_equal(batch['labels'][..., 0], _ids(batch['hr']))
    plain, _ = sample(_pairs() if paired else PHOTOS, spec, step)
    np.testing.assert_array_equal(batch['hr'], plain['hr'])


# Determinism


def test_the_same_seed_and_step_give_the_same_batch():
  first, _ = sample(PHOTOS, _spec(), 11)
  _assert_same(first, sample(PHOTOS, _spec(), 11)[0])
  for other in (
    sample(PHOTOS, _spec(), 12)[0],
    sample(PHOTOS, _spec(seed=4), 11)[0],
  ):
    assert not np.array_equal(first['hr'], other['hr'])


@pytest.mark.parametrize('count', [2, 4, 8])
def test_processes_share_the_batch_of_one(count):
  whole, scale = sample(PHOTOS, _spec(scales=(2, 3)), 5)
  parts = [
    sample(
      PHOTOS,
      _spec(scales=(2, 3), process_index=index, process_count=count),
      5,
    )
    for index in range(count)
  ]
  assert {part_scale for _, part_scale in parts} == {scale}
  np.testing.assert_array_equal(
    np.concatenate([batch['hr'] for batch, _ in parts]), whole['hr']
  )


def test_scales_are_drawn_equally_often_and_shape_the_batch():
  spec = _spec(batch_size=1, scales=(2, 3, 4), patch=4)
  counter = collections.Counter()
  for step in range(600):
    batch, scale = sample(PHOTOS, spec, step)
    assert batch['hr'].shape == (1, 4 * scale, 4 * scale, 3)
    counter[scale] += 1
  assert set(counter) == {2, 3, 4}
  assert min(counter.values()) > 160


@pytest.mark.parametrize('patch', [5, 6, 10])
def test_scales_that_are_not_whole(patch):
  spec = _spec(batch_size=2, scales=(1.1, 2.0, 2.3), patch=patch)
  assert spec.crop_size == patch * 23 // 10
  found = set()
  for step in range(40):
    batch, scale = sample(PHOTOS, spec, step)
    side = patch * round(10 * scale) // 10
    assert batch['hr'].shape == (2, side, side, 3)
    for crop in batch['hr']:
      top, left = int(crop[..., 0].min()), int(crop[..., 1].min())
      piece = PHOTOS[int(crop[0, 0, 2])][top : top + side, left : left + side]
      assert any(np.array_equal(crop, v) for v in _variants(piece))
    found.add(scale)
  assert found == {1.1, 2, 2.3}
  assert {type(scale) for scale in found} == {int, float}


def test_a_resumed_stream_continues_the_uninterrupted_one():
  spec = _spec(scales=(2, 3))
  whole = list(batches(PHOTOS, spec, 0, 9))
  resumed = list(batches(PHOTOS, spec, 5, 9))
  assert [step for step, _, _ in whole] == list(range(9))
  assert [step for step, _, _ in resumed] == [5, 6, 7, 8]
  for (_, scale, batch), (_, again, other) in zip(
    whole[5:], resumed, strict=True
  ):
    assert scale == again
    _assert_same(batch, other)


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_workers_change_nothing(workers):
  spec = _spec(scales=(2, 3))
  stream = batches(PHOTOS, spec, 2, 12, workers=workers, prefetch=2)
  for expected, (step, scale, batch) in zip(range(2, 12), stream, strict=True):
    assert step == expected
    other, other_scale = sample(PHOTOS, spec, step)
    assert scale == other_scale
    _assert_same(batch, other)


# Threads and faults


def test_close_ends_the_threads():
  before = set(threading.enumerate())
  stream = batches(PHOTOS, _spec(), 0, 10**9, workers=2)
  next(stream)
  started = set(threading.enumerate()) - before
  assert len(started) == 2
  stream.close()
  for thread in started:
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_an_open_stream_does_not_hold_up_the_exit():
  program = (
    'import time, numpy as np\n'
    'from sr_jax.data.batches import BatchSpec, batches\n'
    'from sr_jax.data.sources import ImageSource\n'
    'image = np.zeros((32, 32, 3), np.uint8)\n'
    'source = ImageSource(("a",), (lambda: image,))\n'
    'stream = batches(source, BatchSpec(4, 8, (2,), 0), 0, 10**9)\n'
    'next(stream)\n'
    'print("started", flush=True)\n'
  )
  with subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True
  ) as run:
    assert run.stdout.readline() == 'started\n'
    assert run.wait(timeout=60) == 0


def test_an_image_that_fails_in_a_worker_is_a_user_error():
  def gone():
    raise UserError('a.png: gone')

  stream = batches(ImageSource(('a.png',), (gone,)), _spec(), 0, 3)
  with pytest.raises(UserError) as caught:
    next(stream)
  assert str(caught.value) == 'a.png: gone'


def test_a_crop_reads_its_rows_only(tmp_path):
  # 30 GB of holes: reading the image would take memory and minutes.
  image = np.memmap(
    tmp_path / 'holes', np.uint8, 'w+', shape=(100_000, 100_000, 3)
  )
  start = time.process_time()
  batch, _ = sample(_source([image]), _spec(patch=96), 0)
  assert time.process_time() - start < 5
  assert batch['hr'].shape == (8, 192, 192, 3)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'process_count': 3}, 'batch_size=8 cannot be shared by 3 processes'),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'patch': 0}, 'patch=0'),
    ({'scales': ()}, 'scales='),
    ({'scales': (2, 0)}, 'scales='),
    ({'seed': -1}, 'seed=-1'),
    ({'process_index': 2, 'process_count': 2}, 'process_index=2'),
  ],
)
def test_a_wrong_spec_is_a_user_error(overrides, message):
  with pytest.raises(UserError, match=message):
    _spec(**overrides)


def test_crop_size_is_that_of_the_largest_scale():
  assert _spec(patch=48, scales=(2, 4, 3)).crop_size == 192


def test_an_image_smaller_than_the_crop_is_named():
  with pytest.raises(UserError, match=r'0\.png: 9x8 is smaller .* 16x16'):
    sample(_source([_coordinates(8, 9, 0)]), _spec(), 0)


# Pairs


def _pairs(scale=2):
  """HR repeats the pixels of LR, so that an aligned crop shows it."""
  small = [_coordinates(20 + i, 25 - i, i) for i in range(3)]
  large = [x.repeat(scale, 0).repeat(scale, 1) for x in small]
  return PairedSource(_source(small), _source(large), scale)


@pytest.mark.parametrize('scale', [2, 3])
def test_pairs_stay_aligned_under_augmentation(scale):
  for step in range(10):
    batch, _ = sample(_pairs(scale), _spec(scales=(scale,)), step)
    assert batch['lr'].shape == (8, 8, 8, 3)
    np.testing.assert_array_equal(
      batch['hr'], batch['lr'].repeat(scale, 1).repeat(scale, 2)
    )


def test_pairs_have_one_scale():
  with pytest.raises(UserError, match='the pairs are of scale 2'):
    batches(_pairs(), _spec(scales=(2, 3)), 0, 1)
  with pytest.raises(UserError, match='the pairs are of scale 2'):
    fixed_crops(_pairs(), size=12, count=1, scale=3)


# Crops for evaluation


def test_fixed_crops_are_centred_and_spread_over_the_source():
  batch = fixed_crops(PHOTOS, size=24, count=2, scale=2)
  assert batch.keys() == {'hr'}
  assert batch['hr'].shape == (2, 24, 24, 3)
  assert batch['hr'][:, 0, 0].tolist() == [[8, 18, 0], [10, 14, 2]]
  _assert_same(batch, fixed_crops(PHOTOS, size=24, count=2, scale=2))


def test_fixed_crops_leave_out_small_images():
  batch = fixed_crops(PHOTOS, size=48, count=10, scale=2)
  assert batch['hr'][:, 0, 0, 2].tolist() == [3]
  with pytest.raises(UserError, match='largest image has a side of 48'):
    fixed_crops(PHOTOS, size=50, count=10, scale=2)


def test_fixed_crops_need_a_multiple_of_the_scale():
  with pytest.raises(UserError, match='multiple of the scale 3'):
    fixed_crops(PHOTOS, size=25, count=1, scale=3)


def test_fixed_crops_of_pairs_are_aligned():
  batch = fixed_crops(_pairs(3), size=21, count=3, scale=3)
  assert batch['lr'].shape == (3, 7, 7, 3)
  np.testing.assert_array_equal(
    batch['hr'], batch['lr'].repeat(3, 1).repeat(3, 2)
  )


# LR images without HR


def _mixed(labelled=PHOTOS, share=0.4):
  small = [_coordinates(9 + i, 12, 100 + i) for i in range(3)]
  return MixedSource(labelled, _source(small), share)


@pytest.mark.parametrize('step', [0, 5])
def test_mixed_rows_have_hr_or_lr_alone(step):
  spec = _spec()
  batch, scale = sample(_mixed(), spec, step)
  assert scale == 2
  assert batch['labelled'].tolist() == [True] * 5 + [False] * 3  # 0.4 of 8
  paired, _ = sample(PHOTOS, spec, step)
  np.testing.assert_array_equal(batch['hr'][:5], paired['hr'][:5])
  assert batch['unlabelled'].shape == (8, 8, 8, 3)
  assert (batch['unlabelled'][5:, ..., 2] >= 100).all()
  assert not batch['hr'][5:].any()
  assert not batch['unlabelled'][:5].any()


def test_mixed_crops_are_drawn_from_all_images_and_turned():
  spec = _spec(batch_size=400, patch=9)
  batch, _ = sample(_mixed(share=1.0), spec, 0)
  assert not batch['labelled'].any()
  images = batch['unlabelled'][:, 0, 0, 2].tolist()
  assert set(images) == {100, 101, 102}
  corners = batch['unlabelled'][:, 0, 0, :2].tolist()
  assert len({tuple(corner) for corner in corners}) > 8


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_share_the_rows_of_a_mixed_batch(processes):
  whole, _ = sample(_mixed(), _spec(), 3)
  parts = [
    sample(_mixed(), _spec(process_index=i, process_count=processes), 3)[0]
    for i in range(processes)
  ]
  for key, rows in whole.items():
    np.testing.assert_array_equal(rows, np.concatenate([p[key] for p in parts]))


def test_mixed_with_pairs():
  pairs = PairedSource(
    lr=_source([_coordinates(20, 20, 3)]),
    hr=_source([_coordinates(40, 40, 4)]),
    scale=2,
  )
  batch, _ = sample(_mixed(pairs), _spec(), 0)
  assert batch.keys() == {'hr', 'lr', 'unlabelled', 'labelled'}
  assert (batch['lr'][:5, ..., 2] == 3).all()
  assert not batch['lr'][5:].any()
  with pytest.raises(UserError, match='the pairs are of scale 2'):
    batches(_mixed(pairs), _spec(scales=(3,)), 0, 1)


def test_without_a_share_a_mixed_batch_is_the_labelled_one():
  batch, _ = sample(_mixed(share=0.0), _spec(), 2)
  np.testing.assert_array_equal(
    batch['hr'], sample(PHOTOS, _spec(), 2)[0]['hr']
  )
  assert batch['labelled'].all()


@pytest.mark.parametrize('share', [-0.1, 1.5])
def test_a_share_is_a_part(share):
  with pytest.raises(UserError, match=r'unlabelled_share=.*: give 0 to 1'):
    _mixed(share=share)
