"""A hospital's proxy on a bad line: HTTP CONNECT with delay, a bandwidth and cuts, as a fixture."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class BadLine:
    """Listens on loopback; use ``environment`` for processes that shall go through it."""

    def __init__(self, *, delay: float = 0.0, bits_per_second: float = 0.0) -> None:
        self.delay, self.rate = delay, bits_per_second / 8
        self.calls: list[str] = []  # what clients wanted to connect to
        self._open: set[socket.socket] = set()
        self._dead_until, self._lock, self._budget = 0.0, threading.Lock(), 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.environment = {"HTTPS_PROXY": self.url, "https_proxy": self.url, "NO_PROXY": "", "no_proxy": ""}
        self._threads[0].start()

    def __enter__(self) -> BadLine:
        return self

    def __exit__(self, *error: object) -> None:
        self._dead_until = float("inf")
        hang_up(self._listener)
        self.cut(1e6)
        for thread in self._threads:
            thread.join(10)

    def cut(self, seconds: float) -> None:
        """Break every connection, and refuse new ones for some time."""
        self._dead_until = time.monotonic() + seconds
        for end in list(self._open):
            hang_up(end)

    def _accept(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._connect, args=(client,)))
                self._threads[-1].start()

    def _connect(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head and (part := client.recv(4096)):
                head += part
            target = head.split(b" ")[1].decode() if head.startswith(b"CONNECT ") else ""
            self.calls.append(target)
            if not target or time.monotonic() < self._dead_until:
                return
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                client.settimeout(None)
                server.settimeout(None)
                self._open |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client))
                back.start()
                self._pump(client, server)
                back.join()
                self._open -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        last = 0.0
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if time.monotonic() - last > self.delay:  # the first bytes of a burst
                    time.sleep(self.delay)
                last = time.monotonic()
                self._wait_for_bandwidth(len(data))
                sink.sendall(data)
        hang_up(source)
        hang_up(sink)

    def _wait_for_bandwidth(self, size: int) -> None:
        if not self.rate:
            return
        with self._lock:
            self._budget = max(self._budget, time.monotonic()) + size / self.rate
            end = self._budget
        time.sleep(max(0.0, end - time.monotonic()))


def hang_up(end: socket.socket) -> None:
    """End both directions of a connection, whatever its state."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
