"""The pool of :mod:`.pool` on the machines of an existing Dask cluster: results in order, bounded in number.

What the tasks need (an engine with a key) goes to each worker once, over the encrypted connection, into the
memory of its process. Items and results are sealed with a key of this run, which travels the same way. The
scheduler, its logs and whatever Dask writes to disks hold sealed bytes alone.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import multiprocessing.context
import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from meninx.core import files
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.pool import AHEAD, ContextT, Setup, Stop, interrupted, opened

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_TIMEOUT = 20  # seconds to reach the scheduler
_MOST_TRIES = 3  # of an item at workers that came later, besides one at each of the first ones
_GLANCE = 5  # seconds between two looks at the workers while a result is waited for
_WORKERLESS = 300  # seconds without any worker after which a run ends; a batch system may start new ones


@dataclass(frozen=True, kw_only=True)
class ClusterAddress:
    """Where a scheduler listens, and what proves the two sides to each other.

    Attributes:
        address: ``tls://host:port``; ``tcp://`` on this machine only.
        ca: PEM file of the authority that signed scheduler and workers; None for Dask's own configuration.
        cert: PEM file of this client's certificate.
        key: PEM file of its key.
    """

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def check(self) -> None:
        """Refuse an address over which a key must not travel.

        Raises:
            PrivacyRefusal: it is neither encrypted nor on this machine.
        """
        if not _is_safe(self.address):
            fix = "start scheduler and workers with certificates and give tls://HOST:PORT"
            rule = "an encrypted connection, because the site key goes to the workers"
            raise PrivacyRefusal(expected(rule, got="one in the clear", where="scheduler", fix=fix))

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Open a client.

        Raises:
            PrivacyRefusal: a worker listens without encryption on another machine.
            UsageError: the scheduler cannot be reached, has no worker, or a worker runs several threads.
        """
        distributed: Any = importlib.import_module("distributed")
        self.check()
        given = {"tls_ca_file": self.ca, "tls_client_cert": self.cert, "tls_client_key": self.key}
        named = {name: str(path) for name, path in given.items() if path is not None}
        encrypted = self.address.startswith("tls://")
        try:
            security = distributed.Security(require_encryption=encrypted, **named)
            client = distributed.Client(
                self.address, security=security, timeout=_TIMEOUT, set_as_default=False
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            fix = "check the address, the certificates, and that the scheduler runs"
            raise UsageError(
                problem("the scheduler cannot be reached", where="scheduler", fix=fix)
            ) from error
        try:
            threads = client.nthreads()
            if not threads:
                fix = "start workers, e.g. `dask worker ADDRESS --nthreads 1`"
                raise UsageError(problem("the cluster has no workers", where="scheduler", fix=fix))
            if not all(map(_is_safe, threads)):
                fix = "start every worker with certificates"
                raise PrivacyRefusal(problem("a worker is not encrypted", where="scheduler", fix=fix))
            if set(threads.values()) != {1}:
                fix = "start the workers with --nthreads 1 and more --nworkers"
                raise UsageError(problem("a worker has several threads", where="scheduler", fix=fix))
            yield client
        finally:
            client.close()


def check_same(client: Any, versions: Callable[[], Mapping[str, str]]) -> None:
    """Refuse workers that have other versions than this process.

    Args:
        client: of :meth:`ClusterAddress.connected`.
        versions: a function of a module, called here and at each worker.

    Raises:
        UsageError: names what differs.
    """
    try:
        there: Mapping[str, Mapping[str, str]] = client.run(versions)
    except ImportError as error:
        fix = "install the same environment on every machine"
        raise UsageError(problem("a worker cannot import meninx", where="scheduler", fix=fix)) from error
    here = versions()
    names = sorted(
        {name for one in there.values() for name in {*here, *one} if one.get(name) != here.get(name)}
    )
    if names:
        fix = "install the same environment on every machine"
        what = "the versions of this machine at every worker"
        raise UsageError(expected(what, got=f"others of {', '.join(names)}", where="scheduler", fix=fix))


def check_shared(client: Any, folder: Path, samples: Sequence[Path] = ()) -> None:
    """Refuse workers that do not see the files of this machine, or whose files this machine does not see.

    Args:
        client: of :meth:`ClusterAddress.connected`.
        folder: where the workers will write; exists.
        samples: files that they will read.

    Raises:
        UsageError: a folder is not on a shared file system.
    """
    name, content = f"{files.PARTIAL}probe-{secrets.token_hex(8)}", secrets.token_bytes(32)
    probe = folder / name
    files.write_bytes(probe, content, mode=files.PRIVATE_MODE)
    answers: dict[str, tuple[bytes, list[bytes], str]] = {}
    try:
        answers = client.run(_probed, str(probe), list(map(str, samples)))
        here = [_head(path) for path in samples]
        right = all(
            seen == content
            and head == here
            and Path(answer).parent == folder
            and _head(Path(answer)) == content[::-1]
            for seen, head, answer in answers.values()
        )
    finally:
        for path in (probe, *(Path(answer) for _, _, answer in answers.values())):
            if path.parent == folder:
                path.unlink(missing_ok=True)
    if not right:
        fix = "put source and output on a file system that all machines mount at the same path"
        raise UsageError(
            problem("a worker does not see the files of this machine", where="scheduler", fix=fix)
        )


def mapped_on(
    client: Any,
    work: Callable[[ContextT, ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    stop: Stop,
    setup: Callable[..., AbstractContextManager[ContextT]],
    setup_args: tuple[Any, ...],
    died: Callable[[ItemT], ResultT] | None = None,
) -> Generator[ResultT, None, None]:
    """Yield ``work(context, item)`` for every item in order, as :func:`.pool.mapped` does, on a cluster.

    Each worker opens one context for this call, whatever other runs it serves, and closes it at the end.

    At most ``AHEAD`` items per worker are in flight. Items of a dead worker are tried again at others. One
    that is lost with several workers is tried alone, and then handed to ``died``.

    Raises:
        Interrupted: a stop was requested; items in flight were yielded before.
        DataError: an item kills its workers and ``died`` is not given, or no worker is left.
        Exception: whatever ``work`` raises.
    """
    crew = _ClusterCrew(client, work, setup, setup_args)
    window: deque[tuple[int, ItemT, Any]] = deque()
    try:
        for number, item in enumerate(items, start=1):
            if stop.wanted:
                break
            window.append((number, item, crew.submit(item)))
            if len(window) >= AHEAD * crew.workers:
                yield crew.next(window, died)
        while window:
            yield crew.next(window, died)
        if stop.wanted:
            raise interrupted()
    finally:
        client.cancel([future for _, _, future in window])
        crew.close()


class _LostError(Exception):
    """An item was lost with several workers."""


class _ClusterCrew:
    """Submits sealed items and opens sealed results."""

    def __init__(
        self, client: Any, work: Callable[..., Any], setup: Setup, arguments: tuple[Any, ...]
    ) -> None:
        self._client, self._token, self._key = client, secrets.token_hex(8), secrets.token_bytes(32)
        self._session = _pickled((self._key, work, setup, arguments))
        self.workers = len(client.nthreads())
        client.run(_install, self._token, self._session)

    def submit(self, item: Any) -> Any:
        sealed = _sealed(self._key, item)
        return self._client.submit(
            _done_here, self._token, sealed, pure=False, key=f"meninx-{secrets.token_hex(8)}"
        )

    def next(self, window: deque[tuple[int, Any, Any]], died: Callable[[Any], Any] | None) -> Any:
        """Return the result of the oldest item."""
        from distributed import CancelledError, KilledWorker

        number, item, future = window.popleft()
        try:
            return self._result(item, future)
        except (KilledWorker, CancelledError, _LostError):
            return self._alone(number, item, window, died)

    def _result(self, item: Any, future: Any) -> Any:
        """Return the result of an item; a worker that came later gets what it lacks, and the item again.

        Raises:
            _LostError: the item met a new worker again and again, because it kills those that try it. The
                scheduler does not count this: an item that is given again is a new task to it.
        """
        for _ in range(_MOST_TRIES + self.workers):
            done, content = self._waited(future)
            if done:
                return _opened(self._key, content)
            self._client.run(_install, self._token, self._session, workers=[content])
            future = self.submit(item)
        raise _LostError

    def _waited(self, future: Any) -> tuple[bool, Any]:
        """Return what a worker answers; Dask itself would wait for ever where the last worker is gone.

        Raises:
            DataError: there was no worker for some minutes.
        """
        seen = time.monotonic()
        while not future.done():
            try:
                future.result(timeout=_GLANCE)
            except TimeoutError:  # also one that the work raised, which the last line raises again
                if self._client.nthreads():
                    seen = time.monotonic()
                elif time.monotonic() - seen > _WORKERLESS:
                    fix = "start workers and run the same command again; finished files stay"
                    raise DataError(problem("no worker is left", where="scheduler", fix=fix)) from None
        answer: tuple[bool, Any] = future.result()
        return answer

    def _alone(
        self, number: int, item: Any, window: deque[tuple[int, Any, Any]], died: Callable[[Any], Any] | None
    ) -> Any:
        """Return the result of an item that was lost with its workers, while no other one is in flight."""
        from distributed import CancelledError, KilledWorker

        waiting = list(window)
        self._client.cancel([future for _, _, future in waiting])
        window.clear()
        try:
            result = self._result(item, self.submit(item))
        except (KilledWorker, CancelledError, _LostError) as error:
            if died is None:
                fix = "give the machines more memory or take the item out"
                got = f"some that died on item {number}"
                raise DataError(expected("workers that live", got=got, where="scheduler", fix=fix)) from error
            result = died(item)
        window.extend((later, other, self.submit(other)) for later, other, _ in waiting)
        return result

    def close(self) -> None:
        """Remove the engine and the keys of this run from the workers that can be reached."""
        # Where the connection is lost, the keys end with the processes of the workers.
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self._client.run(_forget, self._token, on_error="ignore")


def _pickled(value: object) -> bytes:
    """Return the bytes of an object that may go to a worker only, as those of a process that is started."""
    context: Any = multiprocessing.context
    before = context.get_spawning_popen()
    context.set_spawning_popen(value)
    try:
        return pickle.dumps(value)
    finally:
        context.set_spawning_popen(before)


def _sealed(key: bytes, value: object) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(key).encrypt(nonce, pickle.dumps(value), None)


def _opened(key: bytes, content: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    # Authentic: only a process that has the key of this run can have made it.
    return pickle.loads(AESGCM(key).decrypt(content[:12], content[12:], None))


def _is_safe(address: str) -> bool:
    """Return whether an address is encrypted, or one of this machine."""
    if address.startswith("tls://"):
        return True
    try:
        host = urlsplit(address).hostname or ""
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return local and address.startswith("tcp://")


@dataclass(frozen=True)
class _Session:
    """What a worker process holds for one run: its key, the work with its context, and what closes that."""

    key: bytes
    work: Callable[[Any], Any]
    stack: ExitStack


_sessions: dict[str, _Session] = {}  # in a worker process, by the token of a run


def _install(token: str, content: bytes) -> None:
    """Prepare a worker process for a run."""
    key, work, setup, arguments = pickle.loads(content)
    stack = ExitStack()
    _sessions[token] = _Session(key, opened(stack, work, setup, arguments), stack)


def _forget(token: str) -> None:
    """Close what a worker process holds for a run."""
    session = _sessions.pop(token, None)
    if session is not None:
        session.stack.close()


def _done_here(token: str, sealed: bytes) -> tuple[bool, Any]:
    """Return a sealed result, or the address of a worker that was not prepared."""
    session = _sessions.get(token)
    if session is None:
        from distributed import get_worker

        return False, get_worker().address
    return True, _sealed(session.key, session.work(_opened(session.key, sealed)))


def _probed(probe: str, samples: Sequence[str]) -> tuple[bytes, list[bytes], str]:
    """Return what a worker reads in files, and the name of a file that it writes."""
    path = Path(probe)
    try:
        content, heads = _head(path), [_head(Path(sample)) for sample in samples]
        answer = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
        files.write_bytes(answer, content[::-1], mode=files.PRIVATE_MODE)
    except (OSError, DataError):
        return b"", [], ""
    return content, heads, str(answer)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(4096)
