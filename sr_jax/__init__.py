"""Image super-resolution research in JAX and Flax.

`load` gives a model by name or from a checkpoint, `upscale` enlarges an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from sr_jax.inference.loading import load
  from sr_jax.inference.upscaler import upscale

__all__ = ['__version__', 'load', 'upscale']

__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
  # On first use: `import sr_jax` and `sr-jax --help` stay free of JAX.
  if name == 'load':
    from sr_jax.inference.loading import load

    return load
  if name == 'upscale':
    from sr_jax.inference.upscaler import upscale

    return upscale
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
