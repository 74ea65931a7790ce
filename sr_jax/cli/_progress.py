"""Shows on stderr what long work is at: a bar on a terminal, or lines."""

from __future__ import annotations

import sys
import threading
import time

from tqdm import tqdm

# Seconds of silence before the first line, and the longest pause between two.
_FIRST, _LONGEST = 2.0, 60.0


class Progress:
  """Says which image is worked on, since when, and what is left of its tiles.

  A terminal shows a bar of the images from the start. Elsewhere a line follows
  after two seconds without output, and others after ever longer pauses.
  """

  def __init__(self, total: int):
    """Shows the bar, if there is one.

    Args:
      total: Number of images.
    """
    self._lock = threading.Lock()
    self._what, self._tiles = '', (0, 0)
    self._began = self._said = time.monotonic()
    self._pause = _FIRST
    self._on_terminal = sys.stderr.isatty()
    self._bar = tqdm(
      total=total, unit='image', leave=False, disable=not self._on_terminal
    )
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def start(self, what: str) -> None:
    """Begins a piece of work, named as in `photo.jpg: enlarging`."""
    with self._lock:
      self._what, self._tiles = what, (0, 0)
      self._began = self._said = time.monotonic()
      self._pause = _FIRST

  def tiles(self, done: int, total: int) -> None:
    """Notes how many tiles of the image are done."""
    with self._lock:
      if done == 1:
        self._began = time.monotonic()  # the first tile includes compiling
      self._tiles = done, total

  def write(self, line: str, *, error: bool = False) -> None:
    """Prints a line above the bar."""
    with self._lock:
      self._bar.write(line, file=sys.stderr if error else sys.stdout)
      (sys.stderr if error else sys.stdout).flush()
      self._said = time.monotonic()

  def finish(self, count: int = 1) -> None:
    """Counts images as done."""
    self._bar.update(count)

  def close(self) -> None:
    """Removes the bar."""
    self._ended.set()
    self._thread.join()
    self._bar.close()

  def _watch(self) -> None:
    while not self._ended.wait(0.5):
      with self._lock:
        text = self._text()
        if not text:
          continue
        if self._on_terminal:
          self._bar.set_postfix_str(text)
        elif time.monotonic() - self._said >= self._pause:
          print(f'sr-jax: {text}', file=sys.stderr, flush=True)
          self._said = time.monotonic()
          self._pause = min(2 * self._pause, _LONGEST)

  def _text(self) -> str:
    if not self._what:
      return ''
    seconds = time.monotonic() - self._began
    done, total = self._tiles
    if total > 1 and done > 1:
      left = seconds / (done - 1) * (total - done)
      return f'{self._what}, tile {done} of {total}, {_clock(left)} left'
    return f'{self._what}, {_clock(seconds)} so far'


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
