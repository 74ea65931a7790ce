"""Enlarging photographs with a trained model."""

from sr_jax.inference.automatic import upscale
from sr_jax.inference.loading import load, loadable
from sr_jax.inference.model import SRModel
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler

__all__ = [
  'SRModel',
  'UpscaleOptions',
  'Upscaler',
  'load',
  'loadable',
  'upscale',
]
