"""Image super-resolution research in JAX and Flax.

`loadable` lists the models by name, `load` gives one of them or a checkpoint,
`upscale` enlarges an image, an `Upscaler` with `UpscaleOptions` many images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from sr_jax.inference import (
    SRModel,
    UpscaleOptions,
    Upscaler,
    load,
    loadable,
    upscale,
  )

__all__ = [
  'SRModel',
  'UpscaleOptions',
  'Upscaler',
  '__version__',
  'load',
  'loadable',
  'upscale',
]

__version__ = '0.2.0'


def __getattr__(name: str) -> Any:
  # On first use: `import sr_jax` and `sr-jax --help` stay free of JAX.
  if name in __all__:
    from sr_jax import inference

    return getattr(inference, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted(__all__)
