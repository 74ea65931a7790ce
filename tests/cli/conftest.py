"""Fixtures: the command line run in this process, and a small checkpoint."""

from __future__ import annotations

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import checkpoints, models
from sr_jax.cli.main import main
from sr_jax.data.image_io import Picture, write_image
from tests.tiny_models import waves

TINY = {
  'name': 'edsr',
  'variant': 'small',
  'scale': 2,
  'blocks': 1,
  'features': 4,
}


class Outcome(NamedTuple):
  """Exit status and output of a command."""

  status: int
  out: str
  err: str

  def refused(self, *words: str) -> bool:
    """Whether it failed with one line that has all the words."""
    # Work of more than two seconds also says for how long it has been running.
    lines = [
      line
      for line in self.err.splitlines()
      if not re.fullmatch(r'sr-jax: .*, \d+:\d\d:\d\d (left|so far)', line)
    ]
    assert self.status == 2, self
    assert len(lines) == 1, self
    assert lines[0].startswith('sr-jax: error: '), self
    assert all(word in self.err for word in words), self
    return True


@pytest.fixture
def run(capsys):
  """Runs `sr-jax` with the given arguments."""

  def command(*argv) -> Outcome:
    capsys.readouterr()
    status = main([str(a) for a in argv])
    return Outcome(status, *capsys.readouterr())

  return command


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
  """A checkpoint of an EDSR x2 with one block of four features."""
  network = models.create(TINY)
  init = jax.jit(network.init)
  params = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  path = tmp_path_factory.mktemp('tiny') / 'edsr-tiny'
  config = {'method': {'name': 'supervised'}, 'model': TINY}
  checkpoints.save_params(path, {'generator': params}, config)
  return path


def visible(folder):
  """Names of the files in a folder that are not hidden."""
  return sorted(
    p.relative_to(folder).as_posix()
    for p in folder.rglob('*')
    if p.is_file() and not p.name.startswith('.')
  )


def texture(height, width, channels=3, *, seed=0):
  """A smooth random image `[H, W, C]` in [0, 1]."""
  image = waves(
    height, width, channels, terms=5, period=7, amplitude=0.09, seed=seed
  )
  return image.astype(np.float32)


@pytest.fixture
def photos(tmp_path):
  """A folder with two images, one of them in a subfolder."""
  folder = tmp_path / 'photos'
  write_image(folder / 'one.png', Picture(texture(26, 31)))
  write_image(folder / 'sub' / 'two.png', Picture(texture(24, 24, 1, seed=1)))
  return folder
