"""Many cases in several processes: deaths are noticed, signals stop between cases, results are kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import prepare_fixtures as make
import pytest

from meninx.core.errors import DataError
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT
from meninx.prepare import outputs, stage
from meninx.prepare.cases import CaseJob, CasePlan
from meninx.prepare.checks import Findings
from meninx.prepare.config import PrepareConfig
from meninx.prepare.source_cases import ArraySource, SourceCase
from meninx.prepare.stage import run

CSV = PrepareConfig.of(reader="csv", name="toy", label_columns=("effusion", "nodule"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_an_image_that_kills_its_worker_is_named_and_the_rest_is_kept(tmp_path):
    """A worker that is killed for memory made the stage wait for good."""
    config = CSV.replace(workers=2)
    plan = CasePlan.of(config.images, config.masks, 2, ())
    sources = [ArraySource(make.picture(number)[None]) for number in range(34)]
    deadly = make.Deadly()
    jobs = [
        CaseJob(
            case_id=f"c{n}",
            source=SourceCase(key=str(n), patient=str(n), image=source, where=f"labels.csv, row {n + 2}"),
        )
        for n, source in enumerate([*sources[:20], deadly, *sources[20:]])
    ]
    with outputs.claimed(tmp_path / "out", config, []) as folder:
        shared = folder.shared(plan)
        with pytest.raises(DataError, match=r"out of memory.*labels.csv, row 22"):
            stage.prepare_all(jobs, shared, folder, Findings(), 2, SILENT)
        assert len(list(folder.journal.tables())) >= 10


COMMAND = "import sys; from meninx.cli.app import main; sys.exit(main())"


def test_a_signal_stops_between_images_and_the_same_command_goes_on(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=150)
    out = tmp_path / "out"
    words = [
        "prepare",
        str(root),
        str(out),
        "--reader",
        "csv",
        "--label-columns",
        "effusion",
        "nodule",
        "--name",
        "toy",
        "--quiet",
    ]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], stderr=subprocess.PIPE, text=True)
    journal = out / "private" / "staging" / "private" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert (process.returncode, "same command" in said) == (130, True), said
    result = run(CSV, root, out)
    assert 0 < result.reused < result.cases == 300
    assert len(Manifest.read(out)) == 300
