"""Reads datasets of HDF5 files; MATLAB's files of version 7.3 are HDF5 files.

HDF5 can refer to other files (external links, external storage, virtual
datasets) and can load filters as plugins. This reader does neither: it reads
only plain numbers that lie in the file itself, contiguous or in chunks. Chunks
are decompressed here, because HDF5 does not limit the size of a decompressed
chunk.
"""

from __future__ import annotations

import itertools
import math
import os
import zlib
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t, h5z

from sr_jax.errors import UserError

SIGNATURE = b'\x89HDF\r\n\x1a\n'
_MOST_NAMES = 1000
_MOST_CHUNKS = 10_000
# Chunks at the end of an axis are padded. All chunks together may have this
# multiple of the limit in bytes.
_MOST_PADDED = 4
_CHECKSUM_BYTES = 4


class Arrays:
  """The datasets of an open file, by name; to be used as a context manager.

  Only hard links count as datasets. Shapes are available without reading the
  numbers.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    self._size = os.path.getsize(path)
    self._file = h5py.File(path, 'r', locking=False)

  def __enter__(self) -> Arrays:
    return self

  def __exit__(self, *exception: object) -> None:
    self._file.close()

  def names(self) -> list[str]:
    """Names of the root group's datasets that lie in this file."""
    root = self._file['/']
    names = itertools.islice(root, _MOST_NAMES)
    return [n for n in names if self._dataset(n) is not None]

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a dataset, with MATLAB's order of axes.

    Raises:
      UserError: The numbers of the dataset do not lie in this file.
    """
    return self._plain(name).shape[::-1]

  def holds_numbers(self, name: str) -> bool:
    """Whether a dataset holds numbers; MATLAB's cells hold references."""
    return self._plain(name).dtype.kind in 'fiu'

  def read(self, name: str, limit: int) -> np.ndarray:
    """Reads a dataset, with MATLAB's order of axes.

    Args:
      name: One of `names()`.
      limit: Largest allowed size in bytes.

    Raises:
      UserError: The dataset is no array of plain numbers, does not lie in this
        file, or is larger than the limit.
    """
    dataset = self._plain(name)
    if dataset.dtype.kind not in 'fiu' or not _as_stored(dataset):
      raise UserError(f'{name!r} holds {dataset.dtype}, not plain numbers')
    if dataset.shape is None or dataset.size == 0:
      raise UserError(f'{name!r} holds no numbers')
    nbytes = dataset.size * dataset.dtype.itemsize
    if nbytes > limit:
      raise UserError(f'{name!r} declares {nbytes:,} bytes, at most {limit:,}')
    if dataset.chunks is None:
      return np.asarray(dataset[()]).T
    return self._chunked(dataset, limit).T

  def _dataset(self, name: str) -> Any:
    """The dataset to which a hard link of the root leads, or None."""
    root = self._file['/']
    if not isinstance(root.get(name, getlink=True), h5py.HardLink):
      return None
    item = root[name]
    return item if isinstance(item, h5py.Dataset) else None

  def _plain(self, name: str) -> Any:
    """Returns a dataset after checking that its numbers lie in this file.

    The storage layout is checked before the shape is read, because reading the
    shape of a virtual dataset opens the files to which it refers.
    """
    dataset = self._dataset(name)
    if dataset is None:
      raise UserError(f'{name!r} is no dataset of this file')
    plan = dataset.id.get_create_plist()
    layouts = (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED)
    if plan.get_layout() not in layouts or plan.get_external_count():
      raise UserError(
        f'{name!r} refers to other files, which are not opened: save it again'
        ' with its numbers in this file'
      )
    return dataset

  def _chunked(self, dataset: Any, limit: int) -> np.ndarray:
    """Reads all chunks of a dataset; none may decompress beyond its size."""
    filters = _filters(dataset)
    nbytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    starts = [
      range(0, n, step)
      for n, step in zip(dataset.shape, dataset.chunks, strict=True)
    ]
    count = math.prod(map(len, starts))
    if count > _MOST_CHUNKS or count * nbytes > _MOST_PADDED * limit:
      raise UserError(f'declares {count:,} chunks of {nbytes:,} bytes')
    result = np.full(dataset.shape, dataset.fillvalue, dataset.dtype)
    for start in itertools.product(*starts):
      stored = dataset.id.get_chunk_info_by_coord(start)
      if stored.byte_offset is None:  # not stored: keeps the fill value
        continue
      if stored.size > self._size:
        raise UserError('damaged: a chunk larger than the file')
      # HDF5 writes as many bytes as the file says are stored; the buffer that
      # h5py would give it for a chunk without filters may be smaller.
      buffer = bytearray(stored.size)
      if not filters and stored.size != nbytes:
        raise UserError(
          f'damaged: a chunk of {stored.size} bytes, not {nbytes}'
        )
      mask, data = dataset.id.read_direct_chunk(start, out=buffer)
      raw = _unpacked(data, filters, mask, nbytes, dataset.dtype.itemsize)
      chunk = np.frombuffer(raw, dataset.dtype).reshape(dataset.chunks)
      place = tuple(
        slice(first, first + n)
        for first, n in zip(start, dataset.chunks, strict=True)
      )
      inside = result[place]
      inside[...] = chunk[tuple(slice(n) for n in inside.shape)]
    return result


def _filters(dataset: Any) -> list[int]:
  """Numbers of the filters that were applied to chunks, in this order."""
  plan = dataset.id.get_create_plist()
  filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
  known = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
  if others := [number for number in filters if number not in known]:
    raise UserError(
      f'is packed by the HDF5 filter {others[0]}, which is not loaded: save it'
      ' without filters, or with gzip'
    )
  return filters


def _as_stored(dataset: Any) -> bool:
  """Whether the file stores numbers in the same bits as NumPy."""
  return h5t.py_create(dataset.dtype) == dataset.id.get_type()


def _unpacked(
  data: bytes, filters: list[int], mask: int, nbytes: int, itemsize: int
) -> bytes:
  """Undoes the filters of one chunk; if bit i of `mask` is set, skips filter i.

  Checksums are not verified; most other formats have none.
  """
  for i, number in reversed(list(enumerate(filters))):
    if mask >> i & 1:
      continue
    if number == h5z.FILTER_FLETCHER32:
      data = data[:-_CHECKSUM_BYTES]
    elif number == h5z.FILTER_DEFLATE:
      # The compressed data may end with the checksum of another filter.
      data = zlib.decompressobj().decompress(data, nbytes + _CHECKSUM_BYTES)
    else:
      columns = np.frombuffer(data, np.uint8).reshape(itemsize, -1)
      data = columns.T.tobytes()
  if len(data) != nbytes:
    raise UserError(f'damaged: a chunk of {len(data)} bytes, not {nbytes}')
  return data
