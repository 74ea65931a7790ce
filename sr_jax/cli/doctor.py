"""`sr-jax doctor`: what is installed, what it runs on, whether it works."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds nothing: the command has no options."""
  del parser


def run(args: argparse.Namespace) -> int:
  """Prints the report; fails if a check does."""
  del args
  from sr_jax.cli import _self_check

  _self_check.report()
  return 0
