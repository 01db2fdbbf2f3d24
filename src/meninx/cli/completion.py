"""``meninx completion``: flags and verbs at the press of the tab key."""

from __future__ import annotations

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish", "powershell"], /) -> None:
    """Print the completion script of a shell, for its start-up file.

    Args:
        shell: The shell that will read it.
    """
    from meninx.cli.app import build_app  # the program imports this verb, so only here

    print(build_app().generate_completion(prog_name="meninx", shell=shell))
