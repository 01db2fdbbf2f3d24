"""Server of the status page: for one person at this machine, and for the machine's own Prometheus.

    with serving(events, viewer="east") as address:
        print(address.url)     # http://127.0.0.1:41237/enter?token=...

Who may read the page:

- The server listens on 127.0.0.1 alone and answers GET alone.
- The token in the address works once. It is exchanged for a cookie that scripts cannot read (HttpOnly) and
  that no foreign page can make a browser send (SameSite=Strict).
- A request must name this machine in its Host header, so a foreign name that resolves to 127.0.0.1 (DNS
  rebinding) is refused.
- The content security policy allows the page's own style and script and nothing inline or foreign.
- Prometheus sends the token of a file as ``Authorization: Bearer``; the token opens ``/metrics`` and
  ``/status.json`` only.

Cookies do not tell ports of one machine apart. On a machine that several people share, another person's
program could receive the cookie if this browser visited it. The cookie opens this page only, until it ends.

Starlette comes with ``meninx[federated]``, so this module is imported when a page is asked for.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meninx.core import files, plain
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.randomness import private_bytes
from meninx.federated import status_metrics, status_page
from meninx.federated.events import StudyEvents
from meninx.federated.listener import Listener
from meninx.federated.study_status import StudyStatus, status_of, view_of

HOST = "127.0.0.1"
SCRAPE_TOKEN = "metrics.token"  # beside the events; Prometheus reads it as credentials_file
_SCRAPED = ("/metrics", "/status.json")
_TOKEN_BYTES = 32
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class PageAddress:
    """Where the page is.

    Attributes:
        port: port at 127.0.0.1.
        url: address for one person, with the token that works once.
    """

    port: int
    url: str


class StatusReader:
    """Reads a status from a file of events again whenever the file has changed.

    Args:
        events: the file.
        viewer: the site that looks; None for the coordinator.
    """

    def __init__(self, events: StudyEvents, viewer: str | None) -> None:
        self._events, self._viewer = events, viewer
        self._seen: tuple[int, int] | None = None
        self._status = status_of([])
        self._problem = ""

    def read(self) -> tuple[StudyStatus, str]:
        """Return the latest status that could be read, and why it may be out of date, or an empty text."""
        try:
            now = self._events.path.stat()
            seen = (now.st_mtime_ns, now.st_size)
        except FileNotFoundError:
            return self._status, ""
        except OSError:
            return self._status, "the file of events cannot be read"
        if seen != self._seen:
            try:
                events = self._events.read()
                self._status = status_of(events) if self._viewer is None else view_of(self._viewer, events)
                self._seen, self._problem = seen, ""
            except UsageError:  # the study has not named its sites yet, or not this one
                self._problem = "the events do not mention this site yet"
            except DataError as error:
                self._problem = str(error)
        return self._status, self._problem


def application(reader: StatusReader, *, token: str, scrape_token: str = "") -> ASGIApp:
    """Return the page as an ASGI application.

    Args:
        reader: where the status comes from.
        token: opens the page once.
        scrape_token: opens the metrics; empty when nothing does but the page's own cookie.
    """

    def show(request: Request) -> Response:
        status, trouble = reader.read()
        body = status_page.page(status, now=time.time(), problem=trouble).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body, media_type="text/html", headers={"ETag": tag})

    def as_json(request: Request) -> Response:
        return Response(plain.to_json(reader.read()[0]), media_type="application/json")

    def metrics(request: Request) -> Response:
        text = status_metrics.prometheus(reader.read()[0])
        return Response(text.encode(), headers={"Content-Type": status_metrics.TYPE})

    def style(request: Request) -> Response:
        return Response(status_page.stylesheet(), media_type="text/css")

    def script(request: Request) -> Response:
        return Response(status_page.static_file("status.js"), media_type="text/javascript")

    def icon(request: Request) -> Response:
        return Response(status_page.static_file("icon.svg"), media_type="image/svg+xml")

    routes = {
        "/": show,
        "/status.json": as_json,
        "/metrics": metrics,
        "/style.css": style,
        "/status.js": script,
        "/icon.svg": icon,
    }
    app = Starlette(routes=[Route(path, answer, methods=["GET"]) for path, answer in routes.items()])
    return _Guard(app, token=token, scrape_token=scrape_token)


class _Guard:
    """Lets only requests of the page's reader through, and adds the protective headers to every answer."""

    def __init__(self, app: ASGIApp, *, token: str, scrape_token: str) -> None:
        self._app, self._scrape_token = app, scrape_token
        self._token: str | None = token
        self._session = _new_token()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        answer = self._answer(Request(scope))
        await (self._app if answer is None else answer)(scope, receive, protected)

    def _answer(self, request: Request) -> Response | None:
        """Return what ends the request here; None when the page answers it."""
        port = request.scope["server"][1]  # where the connection arrived
        if request.headers.getlist("host") not in ([f"{HOST}:{port}"], [f"localhost:{port}"]):
            return PlainTextResponse("This page answers to 127.0.0.1 and localhost only.\n", status_code=421)
        if request.method != "GET":
            return PlainTextResponse("Only GET is allowed.\n", status_code=405, headers={"Allow": "GET"})
        cookie = f"meninx_{port}"  # browsers keep the cookies of all ports together
        known = _same(request.cookies.get(cookie, ""), self._session)
        if request.url.path == "/enter":
            return self._enter(request.query_params.get("token", ""), known, cookie)
        if known or (request.url.path in _SCRAPED and self._scrapes(request)):
            return None
        text = "Open this page by the address that meninx printed when it started.\n"
        return PlainTextResponse(text, status_code=403)

    def _enter(self, token: str, known: bool, cookie: str) -> Response:
        """Exchange the token for the cookie, once."""
        if not known:
            if self._token is None or not _same(token, self._token):
                text = "This address was used already, or is not the one that meninx printed."
                return PlainTextResponse(f"{text} Start the page again.\n", status_code=403)
            self._token = None
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(cookie, self._session, path="/", httponly=True, samesite="strict")
        return answer

    def _scrapes(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return bool(self._scrape_token) and scheme.lower() == "bearer" and _same(token, self._scrape_token)


@contextmanager
def serving(
    events: StudyEvents, *, viewer: str | None = None, port: int = 0, scrape_token: str = ""
) -> Iterator[PageAddress]:
    """Serve the page in a thread of this process until the block ends.

    Args:
        events: events of the study.
        viewer: the site that looks; None for the coordinator.
        port: port at 127.0.0.1; 0 for a free one.
        scrape_token: opens ``/metrics`` and ``/status.json`` (:func:`scrape_token_of`); empty for nobody.

    Raises:
        UsageError: the port is taken.
    """
    token = _new_token()
    app = application(StatusReader(events, viewer), token=token, scrape_token=scrape_token)
    listener = Listener(app, HOST, port)
    try:
        listener.start()
        yield PageAddress(port=listener.port, url=f"http://{HOST}:{listener.port}/enter?token={token}")
    finally:
        listener.stop()


def scrape_token_of(folder: Path) -> str:
    """Return the token for Prometheus, from ``metrics.token`` in a folder; a missing file is written.

    Raises:
        DataError: the file is not one that this function wrote.
        StorageError: the disk refused.
    """
    path = folder / SCRAPE_TOKEN
    if not path.exists():
        files.write_text(path, _new_token(), mode=files.PRIVATE_MODE)
    token = files.read_text(path, limit=4096)
    if len(token) != 2 * _TOKEN_BYTES or set(token) - set("0123456789abcdef"):
        raise DataError(problem("the file holds no token", where=SCRAPE_TOKEN, fix="delete it"))
    return token


def _new_token() -> str:
    return private_bytes(_TOKEN_BYTES).hex()


def _same(text: str, secret: str) -> bool:
    """Return whether two texts are equal, in a time that does not depend on where they differ."""
    return secrets.compare_digest(text.encode("utf-8", "replace"), secret.encode())
