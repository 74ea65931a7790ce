"""Speed and memory of patch matching, and similarity of references.

  python benchmarks/patch_match.py forms
  python benchmarks/patch_match.py memory
  python benchmarks/patch_match.py training
  python benchmarks/patch_match.py references --scene CUFED5/001 \
    --features vgg19-dcbb9e9d.pth

- `forms` compares three ways to match feature maps of 125x83 (an image of
  500x332).
- `memory` matches the features of two images of 500x500, and prints the memory.
- `training` matches a batch of nine pairs of 160x160, as a train step does, and
  compares this with reading the matched maps from disk.
- `references` prints how well the references of a scene match, and how well
  they do after changes. An image 001_0.png has the references 001_1.png and so
  on.

The first three use random features.
"""

import argparse
import functools
import os
import pathlib
import resource
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from sr_jax.data.image_io import read_rgb
from sr_jax.methods import _texture
from sr_jax.ops import patch_match
from sr_jax.ops.compilation import jit
from sr_jax.weights import features as feature_weights

LAYERS = list(_texture.RATIOS)


def features_of(spec, layers=LAYERS):
  network = feature_weights.network('vgg', layers, 'vgg19')
  params = feature_weights.load(
    spec, model='vgg', layers=layers, variant='vgg19'
  )
  return functools.partial(network.apply, {'params': params})


def fastest(run, *args, repeats=5):
  """Returns the shortest time in seconds of some runs after the first."""
  jax.block_until_ready(run(*args))
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def random_maps(height, width, seed):
  shape = (height, width, 256)
  return jax.nn.relu(jax.random.normal(jax.random.key(seed), shape))


def forms(unused):
  del unused
  maps = [random_maps(83, 125, seed) for seed in (0, 1)]
  runs = {
    form: jit(lambda a, b, form=form: patch_match.match(a, [b], form=form))
    for form in patch_match.FORMS
  }
  # The forms run by turns, because the machine may be busy at times.
  seconds = {form: [] for form in runs}
  for _ in range(4):
    for form, run in runs.items():
      seconds[form].append(fastest(run, *maps, repeats=1))
  first = runs['box'](*maps).index
  for form, run in runs.items():
    same = bool((run(*maps).index == first).all())
    print(f'{form:12} {min(seconds[form]):7.3f} s, indices as of box: {same}')
  ratio = min(seconds['convolution']) / min(seconds['box'])
  print(f'box is {ratio:.1f} times as fast as convolution')


def memory(unused):
  del unused
  content, reference = (random_maps(125, 125, seed) for seed in (0, 1))
  run = jit(lambda a, b: patch_match.match(a, [b]))
  start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  seconds = fastest(run, content, reference, repeats=1)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(f'500x500 against 500x500: {seconds:.2f} s, peak {peak:.2f} GiB of the')
  print(f'process, {start:.2f} GiB of it before the matching')


def training(unused):
  del unused
  lr, reference = (
    jax.random.uniform(jax.random.key(i), shape)
    for i, shape in enumerate([(9, 40, 40, 3), (9, 160, 160, 3)])
  )
  features = features_of('random:0')

  def maps(lr, reference):
    looked = _texture.look_at(features, reference)
    return _texture.swapped(features, lr, [looked])

  def match(content, reference):
    return patch_match.match(content, [reference])

  run = jit(maps)
  print(f'online, with VGG19: {fastest(run, lr, reference):.3f} s')
  content, blurred = (
    jnp.stack([random_maps(40, 40, 9 * i + j) for j in range(9)])
    for i in range(2)
  )
  seconds = fastest(jit(jax.vmap(match)), content, blurred)
  print(f'online, matching alone: {seconds:.3f} s')
  texture = jax.device_get(run(lr, reference))
  with tempfile.TemporaryDirectory() as folder:
    for name, dtype, save in (
      ('float32', np.float32, np.savez),
      ('float64, as released', np.float64, np.savez),
      ('float64, compressed', np.float64, np.savez_compressed),
    ):
      print(f'from disk, {name}: {_reading(texture, dtype, save, folder)}')


def _reading(texture, dtype, save, folder):
  """Times reading the maps of nine pairs, with and without the page cache."""
  paths = [pathlib.Path(folder, f'{i}.npz') for i in range(9)]
  for i, path in enumerate(paths):
    save(path, **{k: v[i].astype(dtype) for k, v in texture.maps.items()})

  def read():
    start = time.perf_counter()
    for path in paths:
      with np.load(path) as data:
        _ = {k: jnp.asarray(data[k], jnp.float32) for k in data}
    return time.perf_counter() - start

  warm = min(read() for _ in range(3))
  cold = []
  for _ in range(3):
    for path in paths:
      with path.open('rb') as file:
        _drop(file)
    cold.append(read())
  size = sum(path.stat().st_size for path in paths) / 2**20
  return f'{warm:.3f} s cached, {min(cold):.3f} s not, {size:.0f} MiB'


def _drop(file):
  """Removes a file from the page cache."""
  os.fsync(file.fileno())
  os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def references(args):
  features = jit(features_of(args.features))
  hr, *levels = scene_images(args.scene)
  small = _texture.imresize(hr[None], scale=1 / 4)
  lr = _texture.quantize(jnp.asarray(small))

  def told(name, reference, blurred=True):
    reference = jnp.asarray(reference, jnp.float32)[None]
    looked = _texture.look_at(features, reference)
    maps = looked.blurred if blurred else looked.maps[LAYERS[0]]
    content = features(_texture.enlarged(lr))[LAYERS[0]]
    found = jit(lambda a, b: patch_match.match(a, [b]))(content[0], maps[0])
    cosine = np.asarray(found.similarity)[1:-1, 1:-1]
    index = np.asarray(found.index)
    own = np.arange(index.size).reshape(index.shape)
    low, high = np.percentile(cosine, [5, 95])
    distinct = np.unique(index).size / index.size
    same = (index == own).mean() if maps.shape == content.shape else np.nan
    print(
      f'{name:22} {cosine.mean():.3f} {low:.3f} {high:.3f} {distinct:6.3f}'
      f' {same:6.3f}'
    )

  print(f'{"reference":22} mean  p5    p95   distinct identity')
  told('HR itself', hr)
  for i, image in enumerate(levels, 1):
    told(f'level {i}', image)
  for name, image in changed_references(levels[0], hr.shape).items():
    told(name, image)
  told('level 1, not blurred', levels[0], blurred=False)
  told('LR itself, not blurred', _cropped(np.asarray(lr[0])), blurred=False)


def scene_images(scene):
  """Reads HR (`SCENE_0.png`) and its references, float32 in [0, 1]."""
  paths = sorted(scene.parent.glob(f'{scene.name}_?.png'))
  if len(paths) < 2:
    raise SystemExit(
      f'{scene}: needs {scene.name}_0.png, {scene.name}_1.png and so on beside'
      ' it; give the folder and the number of a scene, as CUFED5/001'
    )
  return [_cropped(read_rgb(path) / np.float32(255)) for path in paths]


def changed_references(level1, shape):
  """Makes references that are worse than the first one, by name."""
  turned = ndimage.rotate(level1, 15, reshape=False, order=3, mode='reflect')
  zoomed = ndimage.zoom(level1, (1.5, 1.5, 1), order=3, mode='reflect')
  return {
    'level 1, x0.6': level1 * 0.6,
    'level 1, flipped': level1[:, ::-1],
    'level 1, turned 15': _cropped(turned.clip(0, 1)),
    'level 1, zoomed 1.5': _middle(zoomed.clip(0, 1), shape),
    'level 1, turned 180': level1[::-1, ::-1],
    'level 1, turned 90': level1.swapaxes(0, 1)[::-1],
    'noise': np.random.default_rng(0).random(shape),
    'grey': np.full(shape, 0.5),
  }


def _cropped(image):
  height, width = (n // 4 * 4 for n in image.shape[:2])
  return image[:height, :width]


def _middle(image, shape):
  top, left = (
    (a - b) // 2 for a, b in zip(image.shape[:2], shape[:2], strict=True)
  )
  return image[top : top + shape[0], left : left + shape[1]]


def main():
  """Runs one of the measurements."""
  parser = argparse.ArgumentParser()
  commands = {f.__name__: f for f in (forms, memory, training, references)}
  parser.add_argument('what', choices=commands)
  parser.add_argument('--scene', type=pathlib.Path)
  parser.add_argument('--features')
  args = parser.parse_args()
  commands[args.what](args)


if __name__ == '__main__':
  main()
