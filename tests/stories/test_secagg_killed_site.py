"""A hospital's process is killed between writing its signature and sending it, and the round still ends."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from secagg_sites import Consortium, random_vector

from meninx.core.errors import PrivacyRefusal
from meninx.secagg import SiteProtocol
from meninx.secagg import payload as upload_bytes

KILLED_SITE = """
import base64, os, signal, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from meninx.secagg import Roster, SiteProtocol

folder, survivors = Path(sys.argv[1]), sys.argv[2].split(",")
history = folder / "history"

def record(entry):
    with history.open("a") as stream:
        stream.write(base64.b64encode(entry).decode() + "\\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.kill(os.getpid(), signal.SIGKILL)

site = SiteProtocol(
    Roster.from_bytes((folder / "roster").read_bytes()), "site00",
    Ed25519PrivateKey.from_private_bytes((folder / "key").read_bytes()), "run-1",
    record=record, history=[base64.b64decode(line) for line in history.read_text().split()],
)
print(site.agree(0, 0, survivors))  # never reached
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
def test_site_killed_after_writing_its_signature_signs_nothing_else(tmp_path: Path) -> None:
    consortium = Consortium(4)
    vectors = {name: random_vector(1000, number) for number, name in enumerate(consortium.names)}
    aggregation = consortium.aggregation()
    for name in consortium.names:
        aggregation.receive(consortium.sites[name].upload(0, 0, consortium.names, vectors[name]))
    site = consortium.sites["site00"]
    key = site._signing_key
    (tmp_path / "roster").write_bytes(consortium.roster.to_bytes())
    (tmp_path / "key").write_bytes(key.private_bytes_raw())
    lines = [base64.b64encode(entry).decode() for entry in consortium.history["site00"]]
    (tmp_path / "history").write_text("\n".join(lines) + "\n")

    done = subprocess.run(
        [sys.executable, "-c", KILLED_SITE, str(tmp_path), ",".join(consortium.names)],
        capture_output=True, check=False, env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert done.returncode == -9
    assert done.stdout == b""

    history = [base64.b64decode(line) for line in (tmp_path / "history").read_text().split()]
    assert len(history) == len(lines) + 1
    again = SiteProtocol(
        consortium.roster, "site00", key, "run-1", record=consortium.history["site00"].append, history=history
    )
    with pytest.raises(PrivacyRefusal, match="another set of survivors was signed in round 0"):
        again.agree(0, 0, consortium.names[:3])
    with pytest.raises(PrivacyRefusal, match="round 0 is closed"):
        again.upload(0, 1, consortium.names[:3], vectors["site00"])
    consortium.sites["site00"] = again
    for name in consortium.names:
        aggregation.accept(consortium.sites[name].agree(0, 0, consortium.names))
    for name in consortium.names:
        aggregation.accept_reveal(consortium.sites[name].reveal(0, aggregation.agreements))
    np.testing.assert_array_equal(aggregation.total(), sum(vectors.values()))


def test_two_hospitals_are_lost_at_different_stages_and_the_sum_is_theirs_too() -> None:
    """One drops out before its upload, one after the agreement; the others open shares of what it cannot."""
    consortium = Consortium(7)  # q = 5, t = 3
    vectors = {name: random_vector(1000, number) for number, name in enumerate(consortium.names)}
    *present, late, absent = consortium.names
    aggregation, uploads = consortium.aggregation(), {}
    for name in (*present, late):
        uploads[name] = consortium.sites[name].upload(0, 0, consortium.names, vectors[name])
        aggregation.receive(uploads[name])
    survivors = aggregation.freeze()
    for name in survivors:
        aggregation.accept(consortium.sites[name].agree(0, 0, survivors))
    for name in present:
        aggregation.accept_reveal(consortium.sites[name].reveal(0, aggregation.agreements))
    lost = aggregation.lost()
    for name in present:
        aggregation.accept_reveal(consortium.sites[name].reveal(0, aggregation.agreements, lost))
    np.testing.assert_array_equal(aggregation.total(), sum(vectors[name] for name in survivors))
    assert absent not in survivors
    assert lost == (upload_bytes.split(uploads[late])[0],)
