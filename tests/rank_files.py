"""Writes a tiny rank data set, as `sr-jax rank-data` does."""

import itertools
import json

import numpy as np

from sr_jax.data import ranked
from sr_jax.data.image_io import Picture, write_image

SIZE = 12


def write(folder, *, training=6, held_out=2):
  """Three levels, each with more noise than the one before.

  Of `niqe.txt` the scores fall by level (0 is the worst), and so they rise in
  `ma.txt`: both metrics say the same. All scores differ.
  """
  rng = np.random.default_rng(0)
  parts = {
    part: [f'{part}_{i}.png' for i in range(count)]
    for part, count in (('training', training), ('held_out', held_out))
  }
  lines = {'niqe': [], 'ma': []}
  for i, name in enumerate(itertools.chain(*parts.values())):
    flat = np.full((SIZE, SIZE, 3), 0.2 + 0.05 * i)
    for level in range(3):
      noise = 0.2 * level * rng.normal(size=flat.shape)
      image = (flat + noise).clip(0, 1).astype(np.float32)
      write_image(folder / str(level) / name, Picture(image))
      lines['niqe'].append(f'{level}/{name} {7 - 2 * level + i / 10}\n')
      lines['ma'].append(f'{level}/{name} {2 + 2 * level - i / 10}\n')
  for metric, text in lines.items():
    (folder / f'{metric}.txt').write_text(''.join(text))
  record = {
    'format': ranked.FORMAT,
    'levels': ['a', 'b', 'c'],
    'patch': SIZE,
    'patches': parts,
  }
  (folder / ranked.RECORD).write_text(json.dumps(record))
  return folder
