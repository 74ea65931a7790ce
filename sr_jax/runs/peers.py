"""The processes of a run watch each other, so that none waits for a dead one.

If a process dies, the others wait for it in a collective operation, which
Python cannot interrupt, until JAX aborts them. Each process therefore has a
connection to process 0, on which both send a sign of life every few seconds.
When a connection is lost, or a process reports a fault, every process prints
one line and ends. If process 0 itself is lost, JAX may notice this first, and
abort the others with a text of its own.
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

# Seconds between two signs of life, and seconds without one after which a peer
# counts as lost.
_BEAT, _DEAD_AFTER = 2.0, 30.0
# Seconds that a process with a failed collective operation waits for the
# message of the process that caused it.
_NEWS = 10.0
# Seconds that process 0 waits before it ends after the others.
_FAREWELL = 2.0
_RESUME = 'the last checkpoint is kept: start all processes again to resume'


class Link:
  """The connections of this process to others; none if it is the only one."""

  def __init__(self) -> None:
    """Starts without connections."""
    self._peers: dict[int, socket.socket] = {}
    self._lock = threading.Lock()
    self._begun = False

  def begin(self) -> None:
    """Lets a fault of one process end all processes from now on."""
    self._begun = True

  @contextlib.contextmanager
  def guarding(self) -> Generator[None]:
    """Ends every process of the run if the body fails in this one.

    If there is only one process, the exception passes unchanged.
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
    """Reads the messages of a peer; ends this process if the peer is lost.

    A peer that ends as planned says so in its last message.
    """
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
      pass  # the connection was reset, because the process died
    finally:
      with self._lock:
        del self._peers[process]
    self._report(fault)
    _leave(fault)

  def _report(self, fault: str) -> None:
    """Sends a fault to the peers; process 0 then waits until they have ended.

    JAX's service runs in process 0. Once it is gone, JAX aborts the others with
    a page of text.
    """
    self.send({'fault': fault})
    if jax.process_index() == 0 and self._peers:
      time.sleep(_FAREWELL)

  def _fail(self, error: BaseException) -> NoReturn:
    """Ends all processes because of a fault of this one.

    The process ends at once, because JAX's regular exit waits minutes for the
    others.
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
  """Prints one line and ends the process at once.

  JAX's threads notice lost peers as well, and would abort the process with a
  page of text.
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
  """Connects the processes of a run; all of them must call it."""
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
  """Lets process 0 listen in the background, and the others connect to it."""
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
  """Addresses at which others may reach this host, the likeliest first."""
  coordinator = os.environ.get('JAX_COORDINATOR_ADDRESS', '')
  addresses = [coordinator.rpartition(':')[0].strip('[]'), socket.gethostname()]
  with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as s:
    # This chooses the network interface that leads outwards, and sends nothing.
    s.connect(('192.0.2.1', 9))
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
  """Listens to a peer, or closes the connection if it lacks the token."""
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
