"""Enlarging photographs with a trained model."""

from sr_jax.inference.loading import load
from sr_jax.inference.model import SRModel
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler, upscale

__all__ = ['SRModel', 'UpscaleOptions', 'Upscaler', 'load', 'upscale']
