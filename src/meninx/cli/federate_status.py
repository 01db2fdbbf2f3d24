"""``meninx federate status``: show how a study stands, in the terminal, as JSON or as a page."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output, Screen
from meninx.core import plain
from meninx.core.errors import UsageError, expected, problem
from meninx.core.result import command


def status(
    folder: Path,
    /,
    *,
    page: Annotated[bool, Parameter(negative="")] = False,
    port: int | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Show how a study stands: sites, rounds, bytes that left, privacy budgets, refusals, time left.

    A site sees its own figures; of other sites it sees the name and whether they are connected. The command
    reads what the running coordinator or site writes; it changes nothing in the study.

    Args:
        folder: Folder of a study at the coordinator, of a site, or of a simulation.
        page: Serve a page for a browser on this machine until Ctrl-C. Its address holds a token that works
            once. `/metrics` is for Prometheus, by the token in `metrics.token` beside the events.
        port: Port of the page at 127.0.0.1; a free one if not given.
    """
    early.exists(folder)
    if port is not None and not page:
        raise UsageError(problem("--port has no effect without --page", where="port"))
    if port is not None and not 0 <= port < 1 << 16:
        raise UsageError(expected("a port from 0 to 65535", got=port, where="port"))
    early.extra("train")
    from meninx.federated import study, study_watch
    from meninx.federated.status_terminal import view
    from meninx.federated.study_status import status_of, view_of

    if not study_watch.has_events(folder) and (folder / study.CONFIG).is_file():
        _before(folder, output)
        return
    events, viewer = study_watch.find_events(folder), study_watch.viewer_of(folder)
    if page:
        _serve(folder, port or 0, output)
        return
    found = status_of(events.read()) if viewer is None else view_of(viewer, events.read())
    if output.json:
        print(plain.to_json(found), end="")
    else:
        Screen(file=sys.stdout).print(view(found, now=time.time()))


def _before(folder: Path, output: Output) -> None:
    """Show a study that no process has served yet: its sites, their answers, and the next step."""
    from meninx.federated import consortium
    from meninx.federated.study import open_folder

    found = consortium.consortium_status(open_folder(folder))
    output.show(found)
    if not output.json:
        step = command("federate", "coordinator", folder)
        if not found.ready:
            step = command("federate", "enrol", folder, "--accept", "FILE...")
        print(f"not run yet; next: {step}")


def _serve(folder: Path, port: int, output: Output) -> None:
    """Serve the page until the user stops it."""
    early.extra("federated")
    from meninx.federated import study_watch
    from meninx.federated.status_server import scrape_token_of, serving

    events = study_watch.find_events(folder)
    token = scrape_token_of(events.path.parent)
    viewer = study_watch.viewer_of(folder)
    with serving(events, viewer=viewer, port=port, scrape_token=token) as address:
        print(plain.to_json({"url": address.url}) if output.json else address.url, flush=True)
        note = "Open the address in a browser on this machine. It works once. Ctrl-C ends the page."
        output.progress().note(note)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
