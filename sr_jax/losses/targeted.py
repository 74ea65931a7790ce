"""The targeted perceptual loss (Rad et al., SROBB, ICCV 2019).

Each region of an image (see `ops.regions`) is compared by features of a layer
that suits it: early layers show whether edges are right, later ones textures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from sr_jax.ops.precision import as_float, check_floats


def masked_distance(
  features: Callable[[jax.Array], Mapping[str, jax.Array]],
  sr: jax.Array,
  hr: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  """Summed squared difference of features within a mask, averaged over images.

  The images are multiplied by the mask before their features are computed, so
  that pixels outside the mask have no effect.

  Args:
    features: Maps images to features by layer, for example those of VGG19.
    sr: SR images, `[B, H, W, 3]`.
    hr: HR images, `[B, H, W, 3]`; their features get no gradient.
    mask: `[B, H, W, 1]`, 1 where the images are compared and 0 elsewhere.
  """
  check_floats(sr, hr)
  of_sr, of_hr = (features(mask * image) for image in (sr, hr))
  sums = [
    ((as_float(x) - jax.lax.stop_gradient(as_float(of_hr[layer]))) ** 2).sum()
    for layer, x in of_sr.items()
  ]
  return jnp.stack(sums).sum() / sr.shape[0]
