"""The lines on stderr that say what long work is doing."""

import time
import types
from pathlib import Path

from sr_jax.cli import _enlarge_files, _progress


def test_a_line_says_which_image_and_for_how_long(capsys, monkeypatch):
  """A line read `of this size, 0:00:07`, which names neither."""
  clock = [0.0]
  fake = types.SimpleNamespace(monotonic=lambda: clock[0])
  monkeypatch.setattr(_progress, 'time', fake)
  shown = _progress.Progress(1)
  try:
    shown.start('a.png: enlarging')
    clock[0] = 7.0
    printed, deadline = '', time.monotonic() + 60
    while not printed and time.monotonic() < deadline:
      time.sleep(0.05)
      printed += capsys.readouterr().err
  finally:
    shown.close()
  printed += capsys.readouterr().err
  assert printed == 'sr-jax: a.png: enlarging, 0:00:07 so far\n'


def test_images_that_adapt_together_are_counted():
  sources = [Path('a.png'), Path('b.png'), Path('c.png')]
  assert _enlarge_files.named(sources[:1]) == 'a.png'
  assert _enlarge_files.named(sources[:2]) == (
    'a.png and 1 more image of its size'
  )
  assert _enlarge_files.named(sources) == 'a.png and 2 more images of its size'
