from __future__ import annotations

import json

from deid_samples import clean, image, save


def test_the_summary_says_which_rules_were_in_force(tmp_path):
    save(image(), tmp_path / "in" / "a")
    clean(tmp_path, out="plain")
    table = json.loads((tmp_path / "plain" / "deid.json").read_text())
    assert (table["overrides"], table["max_age"], table["missing_lookup"]) == ([], 89, "pseudonym")
    (tmp_path / "rules.toml").write_text('StudyDescription = "X"\n"0008,103E" = "Z"\n60xx3000 = "K"\n')
    clean(tmp_path, overrides=tmp_path / "rules.toml", max_age=80, missing_lookup="quarantine")
    table = json.loads((tmp_path / "out" / "deid.json").read_text())
    assert table["overrides"] == ["OverlayData=K", "SeriesDescription=Z", "StudyDescription=X"]
    assert (table["max_age"], table["missing_lookup"]) == (80, "quarantine")
