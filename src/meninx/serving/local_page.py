"""A page for one person at this machine: who may read it, and who may send its forms.

    with served(app, token, port=0) as address:
        print(address.url)     # http://127.0.0.1:41237/enter?token=...

- The server listens on 127.0.0.1 alone.
- The token in the address works once. It is exchanged for a cookie that scripts cannot read (HttpOnly) and
  that no foreign page can make a browser send (SameSite=Strict). The cookie is named after the port.
- A request must name this machine in its Host header, so a foreign name that resolves to 127.0.0.1 (DNS
  rebinding) is refused.
- The content security policy allows the page's own style, script and pictures, and nothing inline or foreign.
- GET is answered. A page with forms also answers POST: from its own origin, with the token that only its own
  pages hold, and with a small body that arrives soon.

Cookies do not tell ports of one machine apart. On a machine that several people share, another person's
program could receive the cookie if this browser visited it. The cookie opens this page only, until it ends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meninx.core.randomness import private_bytes
from meninx.serving.http_listener import Listener

HOST = "127.0.0.1"
TOKEN_LENGTH = 64  # hexadecimal digits
FORM_TOKEN = "form_token"  # name of the hidden field
MOST_BODY, BODY_SECONDS = 64 << 10, 10.0
_MOST_FIELDS = 1100
_FORM_TYPE = "application/x-www-form-urlencoded"
_FORM = "meninx.form"  # key of the scope
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Form = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class PageAddress:
    """Where the page is.

    Attributes:
        port: port at 127.0.0.1.
        url: address for one person, with the token that works once.
    """

    port: int
    url: str


@contextmanager
def served(app: ASGIApp, token: str, port: int = 0) -> Iterator[PageAddress]:
    """Serve a page in a thread of this process until the block ends.

    Args:
        app: a :class:`LocalPage`.
        token: the one that opens it.
        port: port at 127.0.0.1; 0 for a free one.

    Raises:
        UsageError: the port is taken.
    """
    listener = Listener(app, HOST, port)
    try:
        listener.start()
        yield PageAddress(port=listener.port, url=f"http://{HOST}:{listener.port}/enter?token={token}")
    finally:
        listener.stop()


def new_token() -> str:
    """Return a new secret of the operating system, 64 hexadecimal digits."""
    return private_bytes(TOKEN_LENGTH // 2).hex()


def is_secret(text: str, secret: str) -> bool:
    """Return whether two texts are equal, in a time that does not depend on where they differ."""
    return secrets.compare_digest(text.encode("utf-8", "replace"), secret.encode())


def form_of(request: Request) -> Form:
    """Return the fields of a form that a :class:`LocalPage` let through."""
    form: Form = request.scope[_FORM]
    return form


class LocalPage:
    """An ASGI application that lets only requests of the page's reader through.

    Guarantee: the application sees no request from another host name, none without the cookie (unless
        ``admits`` says so), no method but GET, and POST only where a form token is given: with that token,
        from the page's own origin, with a body of at most 64 KiB. Every answer carries the protective
        headers.

    Args:
        app: what answers.
        token: opens the page once.
        form_token: the token of its forms; empty for a page without forms.
        admits: request -> whether it needs no cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        form_token: str = "",
        admits: Callable[[Request], bool] = lambda request: False,
    ) -> None:
        self._app, self._form_token, self._admits = app, form_token, admits
        self._token: str | None = token
        self._session = new_token()
        action, referrer = ("'self'", "same-origin") if form_token else ("'none'", "no-referrer")
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            f"base-uri 'none'; form-action {action}; frame-ancestors 'none'"
        )
        # Without a referrer a browser sends the origin "null" with a form, which could be anybody's.
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": referrer} | _HEADERS
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        request = Request(scope, receive)
        answer = self._answer(request)
        if answer is None and request.method == "POST":
            answer = await self._refused_form(request)
        await (self._app if answer is None else answer)(scope, receive, protected)

    def _answer(self, request: Request) -> Response | None:
        """Return what ends the request here; None when the page answers it."""
        port = request.scope["server"][1]  # where the connection arrived
        if request.headers.getlist("host") not in ([f"{HOST}:{port}"], [f"localhost:{port}"]):
            return PlainTextResponse("This page answers to 127.0.0.1 and localhost only.\n", status_code=421)
        methods = ("GET", "POST") if self._form_token else ("GET",)
        if request.method not in methods:
            allowed = ", ".join(methods)
            text = f"Only {allowed} is allowed.\n"
            return PlainTextResponse(text, status_code=405, headers={"Allow": allowed})
        cookie = f"meninx_{port}"  # browsers keep the cookies of all ports together
        known = is_secret(request.cookies.get(cookie, ""), self._session)
        if request.url.path == "/enter" and request.method == "GET":
            return self._enter(request.query_params.get("token", ""), known, cookie)
        if known or self._admits(request):
            return None
        text = "Open this page by the address that meninx printed when it started.\n"
        return PlainTextResponse(text, status_code=403)

    def _enter(self, token: str, known: bool, cookie: str) -> Response:
        """Exchange the token for the cookie, once."""
        if not known:
            if self._token is None or not is_secret(token, self._token):
                text = "This address was used already, or is not the one that meninx printed."
                return PlainTextResponse(f"{text} Start the page again.\n", status_code=403)
            self._token = None
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(cookie, self._session, path="/", httponly=True, samesite="strict")
        return answer

    async def _refused_form(self, request: Request) -> Response | None:
        """Return the refusal of a form; None when its fields are in the scope and its token is right."""
        headers = request.headers
        origins = headers.getlist("origin")
        own = origins == [f"http://{headers['host']}"]
        if not own or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("The form comes from another page.\n", status_code=403)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
            return PlainTextResponse("This is no form.\n", status_code=415)
        try:
            body = await asyncio.wait_for(_body(request), BODY_SECONDS)
            fields = parse_qs(
                body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"
            )
        except TimeoutError:
            return _ended("The form did not arrive in time.\n", 408)
        except _TooLong:
            return _ended("The form is too long.\n", 413)
        except (ValueError, ClientDisconnect):
            return PlainTextResponse("The form is damaged.\n", status_code=400)
        if not is_secret("".join(fields.pop(FORM_TOKEN, [])), self._form_token):
            return PlainTextResponse("The form is out of date. Load the page again.\n", status_code=403)
        request.scope[_FORM] = fields
        return None


class _TooLong(Exception):
    """A body beyond the limit."""


async def _body(request: Request) -> bytes:
    if len(length := request.headers.get("content-length", "0")) > 9 or int(length) > MOST_BODY:
        raise _TooLong
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY:
            raise _TooLong
        parts.append(part)
    return b"".join(parts)


def _ended(text: str, status: int) -> Response:
    return PlainTextResponse(text, status_code=status, headers={"Connection": "close"})
