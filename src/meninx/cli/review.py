"""``meninx review``: decide once per layout about text in pixels, on a page on this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import time
import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.core.errors import UsageError, expected


def review(
    clean: Path,
    /,
    *,
    source: Path | None = None,
    reviewer: str | None = None,
    two_person: Annotated[bool, Parameter(negative="")] = False,
    port: int = 0,
    browser: Annotated[bool, Parameter(name="--browser", negative="--no-browser")] = True,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Review text in pixels on a page on this machine, one decision per layout, until Ctrl-C.

    Keys: a accept, r redact more (drag a rectangle first), k keep text, q quarantine, u undo, n next, p
    previous. Votes are added to `private/review_votes.jsonl`; the decisions are in `private/decisions.csv`
    and take effect when `meninx deid` runs again with --decisions. Ctrl-C ends the page and prints the
    counts.

    Args:
        clean: Output folder of `meninx deid`.
        source: Folder of the originals, to show every layout before redaction; without it, the pictures that
            the run wrote for up to 500 layouts.
        reviewer: Your name, as it stands in the decisions; the name of your account by default.
        two_person: A layout is decided when two reviewers made the same choice; of two who redact more the
            rectangles of both are filled. They review one after the other, each under their own name, and see
            another vote only after their own. Images on which they have not agreed are kept out.
        port: Port of the page at 127.0.0.1; a free one by default.
        browser: Open the page in a browser. On a machine that several people use, open the printed address
            yourself.
    """
    early.exists(clean, source)
    if not 0 <= port < 1 << 16:
        raise UsageError(expected("a port from 0 to 65535", got=port, where="port"))
    early.extra("ocr")
    from meninx.deid.review.review_desk import opened
    from meninx.deid.review.review_server import serving

    name = reviewer if reviewer is not None else _account()
    with opened(clean, reviewer=name, two_person=two_person, source=source) as desk:
        with contextlib.suppress(KeyboardInterrupt), serving(desk, source=source, port=port) as address:
            # With --json stdout holds the counts alone.
            print(address.url, file=sys.stderr if output.json else sys.stdout, flush=True)
            note = "Open the address in a browser on this machine. It works once. Ctrl-C ends the review."
            output.progress().note(note)
            if browser and _has_window():
                webbrowser.open(address.url)
            while True:
                time.sleep(3600)
        output.show(desk.result())


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "reviewer"


def _has_window() -> bool:
    """Return whether a browser would open a window, and not take over this terminal."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
