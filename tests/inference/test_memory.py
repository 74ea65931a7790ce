"""Tile sizes that fit the memory."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.inference import memory
from sr_jax.inference.loading import load
from sr_jax.inference.upscaler import Upscaler
from tests.tiny_models import random_image


def test_program_bytes_counts_the_output():
  program = jax.jit(lambda x: jnp.tile(x, (4, 1)))
  assert memory.program_bytes(program, jnp.zeros((10, 100))) >= 16_000


def device(platform, stats):
  return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)


def test_plan_follows_the_free_memory_of_an_accelerator():
  stats = {'bytes_limit': 1_200_000, 'bytes_in_use': 200_000}
  assert memory.plan_side(7.0, device('gpu', stats)) == 316


def test_plan_takes_at_most_a_gibibyte_of_a_cpu(monkeypatch):
  monkeypatch.setattr(memory, '_available_ram', lambda: 2**40)
  assert memory.plan_side(1024.0, device('cpu', None)) == 1024
  monkeypatch.setattr(memory, '_available_ram', lambda: 2**20)
  assert memory.plan_side(1024.0, device('cpu', None)) == 32


def test_available_memory_of_this_machine():
  assert memory.available_bytes(jax.devices()[0]) > 2**20
  # An accelerator without memory statistics counts as large as the machine.
  assert memory.available_bytes(device('tpu', None)) > 2**20


def test_tiles_follow_the_channels_of_each_image(monkeypatch):
  """D5: images with more channels used the tiles of the first image."""
  asked = []

  def program_bytes(program, params, lr, mask):
    asked.append(lr.shape)
    return 1000 * lr.size

  def plan_side(density, device):
    return 90 if density > 5000 else 110

  monkeypatch.setattr(memory, 'program_bytes', program_bytes)
  monkeypatch.setattr(memory, 'plan_side', plan_side)
  sides = memory.TileSides(
    load('zssr-shared', scale=2), None, None, tile='auto', halo=6, on_host=False
  )
  size = (130, 140)
  assert sides.side({}, size, 1) == 110
  assert sides.side({}, size, 100) == 90
  assert sides.side({}, size, 1) == 110
  assert asked == [(1, 128, 128, 1), (1, 128, 128, 100)]


def test_images_of_many_channels_after_one_channel(monkeypatch):
  """D5: the reported tiles are those for the image's number of channels."""
  monkeypatch.setattr(memory, '_HOST_SIDE', 256)
  upscaler = Upscaler(load('bicubic', scale=2))
  one, many = random_image(140, 150, 1), random_image(140, 150, 100)
  for image in (one, many, one):
    assert upscaler(image).shape == (280, 300, image.shape[2])
    assert upscaler.tile_for(image) == 128
  few = np.ascontiguousarray(many[..., :7])
  assert upscaler.tile_for(few) is None
