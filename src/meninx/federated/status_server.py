"""Server of the status page: for one person at this machine, and for the machine's own Prometheus.

    with serving(events, viewer="east") as address:
        print(address.url)     # http://127.0.0.1:41237/enter?token=...

Who may read the page is the business of :mod:`meninx.serving.local_page`: one person at this machine, by GET.
Prometheus sends the token of a file as ``Authorization: Bearer``; the token opens ``/metrics`` and
``/status.json`` only.

Starlette comes with ``meninx[federated]``, so this module is imported when a page is asked for.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from meninx.core import files, plain
from meninx.core.errors import DataError, UsageError, problem
from meninx.federated import status_metrics, status_page
from meninx.federated.events import StudyEvents
from meninx.federated.study_status import StudyStatus, status_of, view_of
from meninx.serving.local_page import TOKEN_LENGTH, LocalPage, PageAddress, is_secret, new_token, served

SCRAPE_TOKEN = "metrics.token"  # beside the events; Prometheus reads it as credentials_file
_SCRAPED = ("/metrics", "/status.json")


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

    def scrapes(request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = bool(scrape_token) and scheme.lower() == "bearer" and is_secret(given, scrape_token)
        return known and request.url.path in _SCRAPED

    return LocalPage(app, token=token, admits=scrapes)


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
    token = new_token()
    app = application(StatusReader(events, viewer), token=token, scrape_token=scrape_token)
    with served(app, token, port) as address:
        yield address


def scrape_token_of(folder: Path) -> str:
    """Return the token for Prometheus, from ``metrics.token`` in a folder; a missing file is written.

    Raises:
        DataError: the file is not one that this function wrote.
        StorageError: the disk refused.
    """
    path = folder / SCRAPE_TOKEN
    if not path.exists():
        files.write_text(path, new_token(), mode=files.PRIVATE_MODE)
    token = files.read_text(path, limit=4096)
    if len(token) != TOKEN_LENGTH or set(token) - set("0123456789abcdef"):
        raise DataError(problem("the file holds no token", where=SCRAPE_TOKEN, fix="delete it"))
    return token
