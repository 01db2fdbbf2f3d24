"""The page of three hospitals runs from its first command to the report, with real processes on loopback."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meninx.synthetic import write_dataset

pytest.importorskip("flwr")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "three-hospitals.md"
STAYING = ("coordinator", "site")  # commands that stay in their terminal


def commands() -> list[list[str]]:
    """Return the commands of the page up to its options."""
    text = PAGE.read_text(encoding="utf-8").partition("## Options")[0]
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines() if line.strip()]


class Terminals:
    """Terminals in which the commands of the page are typed, in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staying: dict[str, subprocess.Popen[bytes]] = {}

    def typed(self, words: list[str]) -> None:
        name = "-".join(words[:3]).replace("/", "_")
        command = [sys.executable, "-m", "meninx", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.path(name).open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.staying[name] = process
        if words[0] != "federate" or words[1] not in STAYING:
            self.ended(name)
        elif words[1] == "coordinator":
            end = time.monotonic() + 120
            while "Serving study" not in self.shown(name):
                assert process.poll() is None, self.shown(name)
                assert time.monotonic() < end, self.shown(name)
                time.sleep(0.2)

    def ended(self, name: str) -> str:
        assert self.staying.pop(name).wait(400) == 0, self.shown(name)
        return self.shown(name)

    def path(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def shown(self, name: str) -> str:
        return self.path(name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_runs_to_a_model_a_report_and_a_status_that_is_true(tmp_path: Path) -> None:
    for number, hospital in enumerate(("north", "east", "west")):
        write_dataset(tmp_path / "patients" / hospital, patients=60, size=32, seed=number)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    here = Terminals(tmp_path)
    try:
        for words in commands():
            here.typed([*words, "--address", address] if words[1] == "new" else words)
        for hospital in ("north", "east", "west"):
            shown = here.ended(f"federate-site-{hospital}")
            assert f"run: {hospital}/runs/chest/" in shown
            assert "of at most 8 in this study, per patient at delta 0.001" in shown
        assert "no longer served" in here.ended("federate-coordinator-chest")
        assert "each site's run folder" in here.shown("federate-run-chest")
        spent = re.search(
            r"spent in this run: east [\d.]+, north [\d.]+, west [\d.]+ at delta 0.001",
            here.shown("federate-run-chest"),
        )
        assert spent is not None, here.shown("federate-run-chest")
        for page, words in (("chest.html", "as reported"), ("north.html", "gave to north at the end")):
            text = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / page).read_text(encoding="utf-8")).split())
            assert "3 sites trained study chest together: 3 rounds gave a model." in text
            assert words in text
        here.typed(["federate", "status", "north"])
        status = " ".join(here.shown("federate-status-north").split())
        assert "chest, as north sees it" in status
        assert "finished" in status
        assert "3 of 3 rounds gave a model" in status
        assert "without one" not in status
        assert "not protected" not in status
        here.typed(["federate", "status", "chest"])
        assert "is not connected" not in here.shown("federate-coordinator-chest").partition("finished")[2]
    finally:
        for process in here.staying.values():
            process.kill()
            process.wait()
