"""`sr-jax import`: converts published weights to a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sr_jax.cli import arguments
from sr_jax.errors import UserError, counted


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command: a list, however long."""
  parser.add_argument(
    'weights',
    type=Path,
    metavar='WEIGHTS',
    help='.pth, .pt, .safetensors, .npz of TensorLayer, or a TensorFlow 1 '
    'checkpoint: NAME, where NAME.index and NAME.data-00000-of-00001 lie',
  )
  parser.add_argument(
    '--model',
    required=True,
    metavar='NAME',
    help='architecture, such as edsr; or vgg or alexnet, for perceptual losses '
    'and lpips',
  )
  parser.add_argument(
    '--variant', metavar='V', help='published size (default: as in the file)'
  )
  parser.add_argument(
    '--scale',
    type=arguments.scale,
    metavar='S',
    help='scale (default: as in the file; needed for mzsr)',
  )
  arguments.add_model_options(
    parser,
    'one option of the architecture that the file leaves open, such as '
    'residual_scale=0.1',
  )
  parser.add_argument(
    '--key',
    metavar='NAME',
    help='part of a file with several networks to import, such as params or '
    'generator (default: the averaged one, or the only one that fits)',
  )
  parser.add_argument(
    '--dual',
    type=Path,
    metavar='FILE',
    help='file of the dual networks of drn, to import as well',
  )
  parser.add_argument(
    '--metric',
    choices=('niqe', 'pi', 'ma'),
    help='metric for which a ranker was trained; its higher scores must be '
    'the worse ones',
  )
  parser.add_argument(
    '--content',
    type=Path,
    metavar='FILE',
    help='second file with the rest of the network, as upscale.npz for '
    'srntt.npz',
  )
  parser.add_argument(
    '--features',
    metavar='FILE',
    help="VGG19's weights, by which srntt matches references, to import as "
    "well: torchvision's file, or the folder that import made from it",
  )
  parser.add_argument(
    '--sisr',
    metavar='CHECKPOINT',
    help='checkpoint of the model that enlarges the image before crossnet '
    'corrects it (default: bicubic)',
  )
  parser.add_argument(
    '--predictor',
    type=Path,
    metavar='FILE',
    help='Predictor of IKC, which estimates kernel codes, for --model ikc',
  )
  parser.add_argument(
    '--corrector',
    type=Path,
    metavar='FILE',
    help='Corrector of IKC, which corrects them',
  )
  parser.add_argument(
    '--pca',
    type=Path,
    metavar='FILE',
    help='basis of the kernel codes, pca_matrix.pth of IKC (default: computed '
    'for Gaussians up to a standard deviation of the scale)',
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='CHECKPOINT'
  )


def run(args: argparse.Namespace) -> int:
  """Writes the checkpoint, and prints what was recognised in the file."""
  import jax

  from sr_jax import checkpoints, models
  from sr_jax.weights.companions import import_companions
  from sr_jax.weights.published import import_duals, import_weights

  if args.output.exists():
    raise UserError(f'{args.output}: exists already: choose another name')
  if args.metric and args.model != 'ranker':
    raise UserError('--metric is for --model ranker: leave it out')
  if args.model in models.feature_names():
    return _import_features(args)
  imported = import_weights(
    args.weights,
    model=args.model,
    variant=args.variant,
    scale=args.scale,
    options=dict(args.option),
    content=args.content,
    key=args.key,
  )
  config, params = imported.config, imported.params
  duals = import_duals(args.dual, imported) if args.dual else {}
  companions = import_companions(
    imported,
    {'predictor': args.predictor, 'corrector': args.corrector},
    args.pca,
  )
  stats = imported.batch_stats
  model = {'name': config['name'], 'scale': config['scale']}
  module = models.module(config['name'])
  method = module.method(config['options'])
  features = _features(args, method['name'])
  method |= companions.sections.get('method', {})
  sisr, enlarger = _sisr(args, method['name'], config['scale'])
  checkpoints.save_params(
    args.output,
    {
      'generator': params,
      **duals,
      **features,
      **enlarger,
      **companions.slots,
      **({'batch_stats': stats} if stats else {}),
    },
    {
      **companions.sections,
      'method': method | sisr | _learned(args.metric),
      'model': {**model, **config['options']},
    },
  )
  options = ', '.join(f'{k}={v}' for k, v in config['options'].items())
  count = sum(
    leaf.size for leaf in jax.tree.leaves([params, duals, companions.slots])
  )
  print(f'{args.weights}: {model["name"]} x{model["scale"]} ({options})')
  for note in [*imported.notes, *companions.notes]:
    print(f'  {note}')
  if features:
    print(f'  with the features of {args.features}')
  if enlarger:
    print(f'  on what {args.sisr} enlarges')
  kept = len(jax.tree.leaves(stats))
  more = f' and {kept} running statistics' if kept else ''
  print(f'{counted(count, "parameter")}{more} -> {args.output}')
  return 0


def _learned(metric: str | None) -> dict[str, str]:
  """The order that a ranker has learned, as `configs/ranker.py` records it."""
  from sr_jax.data.ranked import BETTER

  return {'metric': metric, 'better': BETTER[metric]} if metric else {}


def _features(args: argparse.Namespace, method: str) -> dict[str, Any]:
  """The slot of VGG19's weights, for a model that matches references."""
  from sr_jax.methods import _texture
  from sr_jax.weights import features

  if method != 'reference':
    if args.features is not None:
      raise UserError(
        f'model {args.model} has no use for --features: leave it out'
      )
    return {}
  if args.features is None:
    raise UserError(
      f"model {args.model} matches references by VGG19's features: give"
      " torchvision's vgg19-dcbb9e9d.pth, or what import made of it, with"
      ' --features'
    )
  return {features.SLOT: _texture.read_features(args.features)}


def _sisr(
  args: argparse.Namespace, method: str, scale: float
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The model that enlarges LR for crossnet: its section, and its slots."""
  from sr_jax.inference import loading
  from sr_jax.methods import warping

  if args.sisr is None:
    return {}, {}
  if method != 'warping':
    raise UserError(f'model {args.model} has no use for --sisr: leave it out')
  model = loading.load(args.sisr, scale=scale)
  if not model.params or model.config['method']['name'] == 'warping':
    raise UserError(
      f'--sisr {args.sisr}: give the checkpoint of a network that enlarges by'
      ' itself, or leave it out for bicubic'
    )
  slots = warping.sisr_slots(model.params)
  section = {k: v for k, v in model.config['model'].items() if k != 'scale'}
  return {'sisr': section}, {warping.SISR: slots}


def _import_features(args: argparse.Namespace) -> int:
  """Imports a network of features, which takes no options."""
  import jax

  from sr_jax import checkpoints
  from sr_jax.weights import features

  given = ('variant', 'scale', 'option', 'key', 'dual', 'content')
  given += ('features', 'sisr', 'predictor', 'corrector', 'pca')
  if refused := [name for name in given if getattr(args, name)]:
    raise UserError(f'--model {args.model} takes no --{refused[0]}')
  params, notes = features.read_file(args.weights, args.model)
  checkpoints.save_params(
    args.output,
    {features.SLOT: params},
    {'method': {'name': 'features'}, 'model': {'name': args.model}},
  )
  print(f'{args.weights}: {args.model}')
  for note in notes:
    print(f'  {note}')
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{counted(count, "parameter")} -> {args.output}')
  return 0
