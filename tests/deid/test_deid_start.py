"""The verb waits for nothing that de-identification does not use."""

from __future__ import annotations

import json
import subprocess
import sys

from deid_samples import image, key_file, save

_RUN = """
import contextlib, io, json, sys
from meninx.cli.app import run
with contextlib.redirect_stdout(io.StringIO()):
    code = run(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""
HEAVY = {"torch", "monai", "scipy", "matplotlib", "distributed", "onnxruntime", "cv2", "highdicom", "nibabel"}
RECORDS = {
    f"meninx.core.{name}"
    for name in (
        "attribute_records", "audit_records", "audit_summary", "comparison_records", "dossier_records",
        "federation", "identity_records", "manifest", "obfuscation_records", "reconstruction_records",
        "risk_records", "run", "run_records",
    )
}  # fmt: skip


def test_a_folder_is_cleaned_without_other_stages_records_and_heavy_packages(tmp_path):
    save(image(), tmp_path / "in" / "a")
    words = ["deid", tmp_path / "in", tmp_path / "out", "--key", key_file(tmp_path), "--site", "north", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, words)], check=True, capture_output=True, text=True
    )
    code, loaded = json.loads(done.stdout)
    assert code == 0
    assert not (HEAVY | RECORDS) & set(loaded)
