"""Chest radiographs of 64 x 64 pixels link to their patients without a learned model (criterion 20)."""

from __future__ import annotations

from pathlib import Path

import pytest

from meninx.audit.config import IdentityConfig
from meninx.audit.reidentification import run_identity
from meninx.prepare.config import PrepareConfig
from meninx.prepare.stage import run as prepare

DATA = Path(__file__).resolve().parents[2] / "../shared/data/nih_cxr_64"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the checkout"),
]


def test_radiographs_without_a_name_are_linked_to_their_patient(tmp_path):
    config = PrepareConfig.of(
        reader="csv", name="nih", label_columns=("Effusion",), attribute_columns=("view",), split="exact"
    )
    prepare(config, DATA, tmp_path / "data")
    audit = run_identity(IdentityConfig(), tmp_path / "data", out=tmp_path / "out").audit
    assert audit is not None
    assert audit.verdict == "linked"
    pixels, hog = audit.links
    assert hog.p_at_1 >= 0.5
    assert pixels.p_at_1 >= 0.5
    assert hog.patients >= 40
    assert max(hog.chance, pixels.chance) < 0.1
    assert hog.auc >= 0.78
    for control in audit.negative:
        assert control.null_low <= control.p_at_1 <= control.null_high
