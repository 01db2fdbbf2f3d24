"""Every benchmark that a page quotes can be started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "ArgumentParser" in path.read_text("utf-8"))
# They import packages that are not part of the environment; their pages say how to install them.
NEED_OTHERS = {"bench_deid_text.py", "deid_text_programmes.py"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_starts_from_the_root_of_the_repository(script):
    command = [sys.executable, f"benchmarks/{script}", "--help"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=BENCHMARKS.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    missing = script in NEED_OTHERS and "ModuleNotFoundError" in done.stderr
    assert missing or (done.returncode == 0 and "usage:" in done.stdout), done.stderr
