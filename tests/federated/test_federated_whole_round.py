"""A whole round of real processes beside Flower's own SecAgg+: the benchmark's figures, one round each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, federated_rounds as found
flower = found.flower_seconds(1, 1_000_000)
ours = [found.our_seconds(1, 1_000_000, mailbox=mailbox) for mailbox in (True, False)]
print(json.dumps([flower, *ours]))
"""


@pytest.mark.slow
def test_a_round_takes_a_fraction_of_flowers() -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    (flower,), (by_mailbox,), (by_flower_alone,) = json.loads(done.stdout.splitlines()[-1])
    assert by_mailbox <= 0.4 * flower
    assert by_flower_alone <= 0.7 * flower
