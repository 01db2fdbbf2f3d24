"""The server of the review, for one person at this machine.

    with serving(desk, source=Path("archive")) as address:
        print(address.url)

:mod:`meninx.serving.local_page` decides who may read it and which forms count. A request names layouts and
pictures by their index only. Starlette comes with ``meninx[ocr]``, so this module is imported when a page
is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from meninx.core.errors import MeninxError, UsageError, problem
from meninx.deid.review import review_page
from meninx.deid.review.layouts import parse_boxes
from meninx.deid.review.review_desk import ReviewDesk
from meninx.deid.review.review_pictures import ReviewPictures
from meninx.deid.review.review_votes import VoteKind
from meninx.imaging.ocr import Box
from meninx.serving.local_page import Form, LocalPage, PageAddress, form_of, new_token, served

_INDEX = re.compile("[0-9]{1,6}")


def application(desk: ReviewDesk, pictures: ReviewPictures, *, token: str) -> ASGIApp:
    """Return the pages of a review as an ASGI application.

    Args:
        desk: layouts and votes.
        pictures: of the layouts.
        token: opens the page once.
    """
    form_token = new_token()

    def index_of(request: Request) -> int:
        return _number(request.path_params["index"], len(desk.layouts))

    def show_list(request: Request) -> Response:
        pages = max(-(-len(desk.layouts) // review_page.PER_PAGE), 1)
        number = _number(request.query_params.get("page", "0"), pages)
        return HTMLResponse(review_page.list_page(desk, number))

    def show_layout(request: Request) -> Response:
        index = index_of(request)
        image = _number(request.query_params.get("image", "0"), max(len(desk.layouts[index].outputs), 1))
        return HTMLResponse(review_page.layout_page(desk, index, form_token, image=image))

    def picture(request: Request) -> Response:
        layout, kind = desk.layouts[index_of(request)], request.path_params["kind"]
        if kind == "after":
            number = request.query_params.get("image", "0")
            content = pictures.after(layout, _number(number, max(len(layout.outputs), 1)))
        elif kind in ("before", "small"):
            content = pictures.before(layout, small=kind == "small")
        else:
            raise HTTPException(404)
        return Response(content, media_type="image/png") if content else PlainTextResponse("", 404)

    def vote(request: Request) -> Response:
        index, form = index_of(request), form_of(request)
        try:
            kind, boxes = _choice(form, desk.mask(index).boxes)
            desk.vote(index, kind, boxes)
        except MeninxError as error:
            page = review_page.layout_page(desk, index, form_token, problem=str(error))
            return HTMLResponse(page, status_code=400 if isinstance(error, UsageError) else 500)
        following = desk.next_open(index)
        return RedirectResponse("/" if following is None else f"/layout/{following}", status_code=303)

    def undo(request: Request) -> Response:
        index = desk.undo()
        return RedirectResponse("/" if index is None else f"/layout/{index}", status_code=303)

    app = Starlette(
        routes=[
            Route("/", show_list, methods=["GET"]),
            Route("/layout/{index}", show_layout, methods=["GET"]),
            Route("/picture/{index}/{kind}", picture, methods=["GET"]),
            Route("/layout/{index}/vote", vote, methods=["POST"]),
            Route("/undo", undo, methods=["POST"]),
            *(Route(f"/{name}", _static(name, kind), methods=["GET"]) for name, kind in _STATIC),
        ]
    )
    return LocalPage(app, token=token, form_token=form_token)


_STATIC = review_page.STATIC.items()


def _static(name: str, kind: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        return Response(review_page.static_file(name), media_type=kind)

    return answer


def _number(text: str, count: int) -> int:
    """Return an index from a request that is below a count; anything else is no page."""
    if not _INDEX.fullmatch(text) or int(text) >= count:
        raise HTTPException(404)
    return int(text)


def _choice(form: Form, found: tuple[Box, ...]) -> tuple[VoteKind, tuple[Box, ...]]:
    """Return the choice of a form and its boxes.

    Raises:
        UsageError: it holds no choice, or no boxes where the choice needs some.
    """
    try:
        kind = VoteKind(form.get("choice", [""])[-1])
        if kind == VoteKind.UNDO:
            raise ValueError("no choice")
        boxes: tuple[Box, ...] = ()
        if kind == VoteKind.REDACT:
            boxes = parse_boxes(form.get("boxes", [""])[-1])
        if kind == VoteKind.KEEP:
            chosen = [text for text in form.get("keep", []) if _INDEX.fullmatch(text)]
            boxes = tuple(found[int(text)] for text in chosen)
    except (ValueError, TypeError, IndexError):
        fix = "write four numbers for each box: left top right bottom"
        raise UsageError(problem("the form holds no decision", where="boxes", fix=fix)) from None
    if kind in (VoteKind.ACCEPT, VoteKind.KEEP) and form.get("boxes", [""])[-1].strip():
        fix = "redact it, or remove its numbers"  # nobody draws a box in order to have it ignored
        raise UsageError(
            problem(f"there is a box to redact, which {kind} would ignore", where="boxes", fix=fix)
        )
    if not boxes and kind in (VoteKind.REDACT, VoteKind.KEEP):
        fix = "drag a rectangle, or write its numbers" if kind == VoteKind.REDACT else "tick at least one"
        raise UsageError(problem(f"there is no box to {kind}", where="boxes", fix=fix))
    return kind, boxes


@contextmanager
def serving(desk: ReviewDesk, *, source: Path | None = None, port: int = 0) -> Iterator[PageAddress]:
    """Serve the review in a thread of this process until the block ends.

    Args:
        desk: layouts and votes.
        source: folder of the originals, for pictures; None to show what the run wrote.
        port: port at 127.0.0.1; 0 for a free one.

    Raises:
        UsageError: the port is taken.
    """
    token = new_token()
    app = application(desk, ReviewPictures(desk.root, source), token=token)
    with served(app, token, port) as address:
        yield address
