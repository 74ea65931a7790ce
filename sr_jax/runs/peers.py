"""The processes of one run watch each other, so that none waits for a dead one.

A process whose peer is gone waits in a collective operation that Python cannot
interrupt, until JAX aborts it. Each process therefore holds a connection to
process 0 on which both send a sign of life every few seconds. When one is
lost, or a process reports a fault of its own, every process prints one line
and ends. Where process 0 itself is lost, JAX may notice it first and abort the
others with a text of its own.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Generator
from typing import Any, NoReturn

import jax

from sr_jax import sharding
from sr_jax.errors import UserError, printable, wants_traceback

_log = logging.getLogger(__name__)

# Seconds between two signs of life, and without one until a peer counts as
# lost.
_BEAT, _DEAD_AFTER = 2.0, 30.0
# Seconds that a failed collective operation waits for the news of whose fault
# it is.
_NEWS = 10.0
# Seconds that process 0 outlives the others.
_FAREWELL = 2.0
_RESUME = 'the last checkpoint is kept: start all processes again to resume'


class Link:
  """The connections of this process to its peers; none in a run of one."""

  def __init__(self) -> None:
    """Starts without connections."""
    self._peers: dict[int, socket.socket] = {}
    self._lock = threading.Lock()
    self._begun = False

  def begin(self) -> None:
    """From now on the fault of one process ends all."""
    self._begun = True

  @contextlib.contextmanager
  def guarding(self) -> Generator[None]:
    """Ends every process of the run if the body fails in this one.

    In a run of one process the exception just passes.
    """
    try:
      yield
    except BaseException as error:
      if jax.process_count() > 1 and self._begun:
        self._fail(error)
      raise

  def send(self, message: dict[str, Any]) -> None:
    """Sends a message to all peers that can still be reached."""
    text = json.dumps(message).encode() + b'\n'
    with self._lock:
      for peer in self._peers.values():
        with contextlib.suppress(OSError):
          peer.sendall(text)

  def listen(self, process: int, host: str, peer: socket.socket) -> None:
    """Reads what a peer sends, until it ends well; a lost one ends this run."""
    peer.settimeout(_DEAD_AFTER)
    with self._lock:
      self._peers[process] = peer
    fault = f'process {process} on {host} ended unexpectedly'
    try:
      for line in peer.makefile('rb'):
        message = json.loads(line)
        if 'bye' in message:
          return
        if 'fault' in message:
          fault = str(message['fault'])
          break
    except TimeoutError:
      fault = (
        f'process {process} on {host} gave no sign of life for'
        f' {_DEAD_AFTER:g} s'
      )
    except (OSError, ValueError):
      pass  # reset: the process died
    finally:
      with self._lock:
        del self._peers[process]
    self._report(fault)
    _leave(fault)

  def _report(self, fault: str) -> None:
    """Tells the peers; process 0 stays until they have ended.

    JAX aborts them with a page of text once its service in process 0 is gone.
    """
    self.send({'fault': fault})
    if jax.process_index() == 0 and self._peers:
      time.sleep(_FAREWELL)

  def _fail(self, error: BaseException) -> NoReturn:
    """Ends all processes for a fault of this one.

    An exit without ceremony, since JAX's own waits minutes for the others.
    """
    expected = isinstance(error, (UserError, OSError, KeyboardInterrupt))
    if not expected:
      time.sleep(_NEWS)  # the fault may be a peer's: `listen` then ends this
    text = _line(error)
    here = f'process {jax.process_index()} on {socket.gethostname()}'
    self._report(f'{here}: {text}')
    if wants_traceback() or not expected:
      traceback.print_exception(error)
    _leave(text, 130 if isinstance(error, KeyboardInterrupt) else 2)


def _leave(text: str, status: int = 2) -> NoReturn:
  """Prints one line and ends the process.

  At once, since JAX's threads notice lost peers as well, and then abort the
  process with a page of text.
  """
  os.write(2, f'error: {printable(text)}; {_RESUME}\n'.encode())
  os._exit(status)


def _line(error: BaseException) -> str:
  if isinstance(error, KeyboardInterrupt):
    return 'interrupted'
  if isinstance(error, OSError) and error.filename:
    return f'{error.filename}: {error.strerror}'
  if isinstance(error, (UserError, OSError)):
    return str(error)
  return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


@contextlib.contextmanager
def linked() -> Generator[Link]:
  """Connects the processes of a run; all must call it at the same place."""
  link = Link()
  if jax.process_count() == 1:
    yield link
    return
  done = threading.Event()
  try:
    _connect(link)
    threading.Thread(target=_beat, args=(link, done), daemon=True).start()
    with link.guarding():
      yield link
  finally:
    done.set()
    link.send({'bye': True})


def _beat(link: Link, done: threading.Event) -> None:
  while not done.wait(_BEAT):
    link.send({})


def _connect(link: Link) -> None:
  """Process 0 listens in the background, the others connect to it."""
  first = jax.process_index() == 0
  offer: dict[str, Any] = {'host': socket.gethostname()}
  if first:
    server = socket.create_server(('', 0))
    offer |= {
      'token': secrets.token_hex(16),
      'port': server.getsockname()[1],
      'addresses': _addresses(),
    }
    hosts = [said['host'] for said in sharding.gathered(offer)]
    arguments = (link, server, offer['token'], hosts)
    threading.Thread(target=_accept, args=arguments, daemon=True).start()
    return
  offer = sharding.gathered(offer)[0]
  for address in offer['addresses']:
    with contextlib.suppress(OSError):
      peer = socket.create_connection((address, offer['port']), timeout=10)
      hello = {'token': offer['token'], 'process': jax.process_index()}
      peer.sendall(json.dumps(hello).encode() + b'\n')
      arguments = (0, offer['host'], peer)
      threading.Thread(target=link.listen, args=arguments, daemon=True).start()
      return
  _log.warning(
    'no connection to process 0 at %s, port %d: if a process of this run dies,'
    ' the others end only when JAX notices',
    *(' or '.join(offer['addresses']), offer['port']),
  )


def _addresses() -> list[str]:
  """Where others may reach this host, best first."""
  coordinator = os.environ.get('JAX_COORDINATOR_ADDRESS', '')
  addresses = [coordinator.rpartition(':')[0].strip('[]'), socket.gethostname()]
  with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect(('192.0.2.1', 9))  # finds the outward interface, sends nothing
    addresses.append(s.getsockname()[0])
  return list(dict.fromkeys(filter(None, addresses)))


def _accept(
  link: Link, server: socket.socket, token: str, hosts: list[str]
) -> None:
  while True:
    peer, _ = server.accept()
    arguments = (link, peer, token, hosts)
    threading.Thread(target=_greet, args=arguments, daemon=True).start()


def _greet(
  link: Link, peer: socket.socket, token: str, hosts: list[str]
) -> None:
  """Listens to a peer of this run; whoever lacks its token is sent away."""
  peer.settimeout(_DEAD_AFTER)
  try:
    hello = json.loads(peer.makefile('rb', buffering=0).readline(200))
    known = hmac.compare_digest(str(hello['token']), token)
    process = int(hello['process'])
    host = hosts[process]
  except (OSError, ValueError, KeyError, TypeError, IndexError):
    peer.close()
    return
  if known:
    link.listen(process, host, peer)
  else:
    peer.close()
