"""A dossier of a site of a federated study: the other sites hold the same model, and nothing was chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dossier_samples as samples
import pytest
from report_samples import write_deid

from meninx.core import artifacts
from meninx.core.artifacts import Lineage
from meninx.core.federation import StudyPart
from meninx.core.run import Run
from meninx.dossier import stage
from meninx.dossier.config import DossierConfig
from meninx.dossier.facts import every


def a_site(folder: Path, site: str) -> Path:
    """Return a site's run of a study."""
    part = StudyPart(study="chest", run="a" * 32, site=site, sites=2, aggregation="masks")
    members = tuple(f"patient of {site} {number}" for number in range(20))
    run = samples.a_run(folder, study=part, members=members, audited=False)
    artifacts.write(run, replace(artifacts.require(run, Lineage, fix=""), study=part))
    Run(run).enlist(added=[run / artifacts.place(Lineage)])
    return run


@pytest.mark.usefixtures("no_pdf")
def test_sites_of_one_study_are_no_candidates_and_keep_their_own_epsilon(tmp_path: Path):
    sites = [a_site(tmp_path / site, site) for site in ("north", "south")]
    deid = write_deid(tmp_path / "deid", "north")
    record = stage.run(
        DossierConfig(date=samples.DATE, release="north"), [*sites, deid], tmp_path / "dossier"
    ).record
    value = {fact.key: fact.value for fact in every(record.parts)}
    assert value["selection/runs"] == 2
    assert (value["selection/candidates"], value["selection/sites"]) == (1, 1)
    assert value["selection/composed"] == 1
    assert value["selection/epsilon"] == value["guarantee/epsilon"]
    assert "nothing was chosen" in value["selection/inside"]
    assert (value["lineage/study"], value["lineage/site"]) == ("chest, 2 sites", "north")
    assert value["deid/1/linked"] is False
    assert any("names none of the de-identified archives" in item for item in record.warnings)
