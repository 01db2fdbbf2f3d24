"""The section on federated training says who took part, who saw what, what failed and what was spent."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from report_samples import write_run

from meninx.core import artifacts
from meninx.core.errors import DataError
from meninx.core.federation import ArmResult, ArmsRecord, FederatedRecord, FederatedRound, StudyPart
from meninx.report import context, joint_privacy, section_federated, sources, stage
from meninx.report.config import ReportConfig

SITES = ("east", "north", "south", "west")
ALL = FederatedRound(
    number=0, accepted=True, attempts=1, survivors=SITES, units=100, loss=0.61, received=4_000_000,
    seconds=2.5, recomputed=dict.fromkeys(SITES, 1.0),
)  # fmt: skip
WITHOUT = replace(ALL, number=1, survivors=("east", "north", "west"), missing=("south",), units=70, cut=0.02)
LOST = replace(
    ALL, number=2, accepted=False, survivors=(), missing=SITES, units=0, loss=None, recomputed={}, attempts=2,
    words="the sum could not be opened",
)  # fmt: skip
STUDY = FederatedRecord(
    study="chest", run="r1", digest="a" * 64, layout="b" * 64, model="c" * 64, algorithm="fedavg",
    aggregation="masks", sites=SITES, quorum=3, colluders=1, sentence="Up to 1 site may collude.",
    finished=True, private=True, delta=1e-4, epsilon={"east": 3.2, "north": 7.9, "west": 4.0},
    refusals={"south": "the privacy budget of this site is used up <script>"}, rounds=(ALL, WITHOUT, LOST),
)  # fmt: skip


def page(folder: Path, study: FederatedRecord) -> str:
    """Return the page's text on a study."""
    artifacts.write(folder, study)
    out = folder.parent / f"{folder.name}.html"
    stage.run(ReportConfig(), [folder], out)
    return section(out, "federated")


def section(page: Path, anchor: str) -> str:
    """Return the text of a section of a page."""
    source = page.read_text()
    assert "<script>" not in source
    start = source.index(f'id="{anchor}"')
    text = re.sub(r"<wbr>", "", source[start : source.index("</section", start)])
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("\u00a0", " "))


def test_the_page_says_who_took_part_what_failed_and_what_was_spent(tmp_path: Path) -> None:
    text = page(tmp_path / "study", STUDY)
    assert "4 sites trained study chest together: 2 rounds gave a model. 1 failed" in text
    assert "Up to 1 site may collude." in text
    assert "epsilon of the worst site 7.9 at north, delta 0.0001; 1 site did not report" in text
    assert "left: the privacy budget of this site is used up" in text
    assert "2 of 2 accepted sums, each by all its sites (whole)" in text
    assert "accepted sums that no site computed again none" in text
    assert "without south; 2 % of the changes were cut" in text
    assert "no model: the sum could not be opened" in text
    assert "The sums of rounds 1 and 2 differ by south alone" in text
    assert "is bounded by differential privacy alone" in text


def test_without_privacy_and_aggregation_the_page_promises_nothing(tmp_path: Path) -> None:
    plain = replace(
        STUDY, aggregation="plain", private=False, colluders=None, epsilon={}, simulated=True, finished=False,
        sentence="Nothing is hidden from the coordinator.", rounds=(ALL,), refusals={},
    )  # fmt: skip
    text = page(tmp_path / "study", plain)
    assert "none: the coordinator sees every update" in text
    assert "nothing bounds what the model, or the sums, tell about patients" in text
    assert "a simulation" in text
    assert "The study is not finished." in text
    assert "no privacy" in text
    assert "worst site" not in text
    assert "nothing was hidden from whoever ran it" in text


def test_three_sites_are_warned_of_two_colluders_and_of_a_dropout(tmp_path: Path) -> None:
    three = replace(STUDY, sites=SITES[:3], refusals={}, rounds=(replace(ALL, survivors=SITES[:3]),))
    text = page(tmp_path / "three", three)
    assert "two of them that collude always see the update of the third" in text
    assert "No dropout is tolerated" in text
    assert "No dropout is tolerated" not in page(tmp_path / "four", STUDY)


def test_a_site_that_computed_another_sum_stands_out(tmp_path: Path) -> None:
    text = page(tmp_path / "study", replace(STUDY, rounds=(replace(ALL, mismatches=("west",)),)))
    assert "Round 1: west computed another sum than the coordinator's." in text


def test_models_are_compared_on_the_test_patients_of_each_site(tmp_path: Path) -> None:
    rows = [
        ArmResult(arm=arm, site=site, metric="auroc", value=value, low=low, high=0.9, patients=40, steps=8)
        for arm, value, low in (("local", 0.7, 0.6), ("pooled", 0.85, None), ("federated", 0.8, 0.7))
        for site in ("north", "south")
    ]
    artifacts.write(tmp_path / "study", ArmsRecord(study="chest", run="r1", rows=tuple(rows)))
    text = page(tmp_path / "study", STUDY)
    assert "site alone all data in one place together patients" in text
    assert "north 0.700 [0.600, 0.900] 0.850 no interval 0.800 [0.700, 0.900] 40" in text
    paired = replace(rows[-1], difference=0.1, difference_low=0.02, difference_high=0.2)
    artifacts.write(tmp_path / "paired", ArmsRecord(study="chest", run="r1", rows=(*rows[:-1], paired)))
    text = page(tmp_path / "paired", STUDY)
    assert "together together minus alone, paired patients" in text
    assert (
        "south 0.700 [0.600, 0.900] 0.850 no interval 0.800 [0.700, 0.900] +0.100 [+0.020, +0.200] 40" in text
    )


def site_run(folder: Path, site: str, members: Sequence[str] | None, **settings: object) -> Path:
    """Return the run of a site of study chest."""
    part = StudyPart(study="chest", run="r1", site=site, sites=3, digest="a" * 64, aggregation="masks")
    kept = {"steps": 1, "evaluated": False, **settings}  # the accounting of many steps takes seconds
    return write_run(folder / site / "run", private=True, members=members, study=part, **kept)


@pytest.fixture
def sites(tmp_path: Path) -> list[Path]:
    """The runs of three sites with different patients, the second with less noise."""
    kinds = {"east": {}, "north": {"noise": 0.8}, "west": {}}
    return [
        site_run(tmp_path, site, [f"{site}-{number}" for number in range(30)], **kind)
        for site, kind in kinds.items()
    ]


def test_the_runs_of_a_study_are_one_study_and_their_epsilons_are_not_added(
    sites: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    result = stage.run(ReportConfig(), sites, out)
    runs = [run for run in sources.read(sites) if isinstance(run, sources.TrainedRun)]
    worst = max(run.account.spent.epsilon for run in runs if run.account and run.account.spent)
    text = section(out, "federated")
    assert text.count("Study chest of 3 sites: the runs of east, north and west were given.") == 1
    assert "The folder of its coordinator was not" in text
    assert f"epsilon of the worst site {worst:.4g} at north, delta 0.0001" in text
    assert text.count("by its ledger") == 3
    assert "Epsilons of different patients are not added up" in text
    assert result.verdicts["Privacy of training?"]
    cards = section(out, "verdict")
    assert "run chest at north" in cards
    assert "one of 3 sites of study chest" in cards
    assert "together" not in cards
    privacy = section(out, "privacy")
    assert "count together" not in privacy
    assert privacy.count("Plans of the sites of study chest") == 1
    assert "Plan of run" not in privacy


def test_usefulness_is_judged_at_the_site_where_the_model_does_worst(
    sites: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(
        context, "_worth", lambda run: {"east": 0.9, "north": 0.6, "west": 0.8}[run.part.site]
    )
    assert context.gather(ReportConfig(), sites).headline.part.site == "north"


def groups(paths: Sequence[Path]) -> set[tuple[str, ...]]:
    """Return the sites of every group whose costs are added, the same in every order."""
    runs = [run for run in sources.read(paths) if isinstance(run, sources.TrainedRun)]
    found = set()
    for given in itertools.permutations(runs):
        joints = joint_privacy.groups(given)
        found.add(tuple(sorted(tuple(sorted(run.part.site for run in joint.runs)) for joint in joints)))
    [only] = found
    return set(only)


def test_sites_that_may_share_patients_are_not_added_and_the_page_says_so(tmp_path: Path) -> None:
    paths = [site_run(tmp_path, site, None) for site in ("east", "north")]
    assert groups(paths) == {("east",), ("north",)}
    stage.run(ReportConfig(), paths, tmp_path / "page.html")
    text = section(tmp_path / "page.html", "privacy")
    assert "Whether anybody is a patient of both is not known of these sites: east and north" in text
    assert "Somebody who is a patient of both spends both." in text


def test_equal_identifiers_at_two_sites_are_two_people_until_shown_otherwise(tmp_path: Path) -> None:
    known = {"identifiers": ("a", "b")}
    paths = [site_run(tmp_path, site, [f"{site}-1"], known=known) for site in ("east", "north")]
    assert groups(paths) == {("east",), ("north",)}


def test_a_patient_of_two_sites_spends_the_epsilon_of_both(tmp_path: Path) -> None:
    members = {"east": ["p1", "p2"], "north": ["p2", "p3"], "west": ["p4"]}
    paths = [site_run(tmp_path, site, names) for site, names in members.items()]
    assert groups(paths) == {("east", "north"), ("west",)}
    stage.run(ReportConfig(), paths, tmp_path / "page.html")
    assert "Sites east and north have patients in common" in section(tmp_path / "page.html", "federated")
    assert "Sites with a common patient: east and north" in section(tmp_path / "page.html", "privacy")


def test_two_runs_of_one_site_are_added(tmp_path: Path) -> None:
    paths = [site_run(tmp_path / name, "east", None) for name in ("first", "second")]
    assert groups(paths) == {("east", "east")}


@pytest.mark.parametrize("name", ["skin", "chest"])  # another study may have the same name
def test_runs_of_two_studies_that_may_share_patients_are_added(tmp_path: Path, name: str) -> None:
    other = StudyPart(study=name, run="r9", site="north", sites=3)
    paths = [site_run(tmp_path, "east", None)]
    paths.append(write_run(tmp_path / "other", private=True, members=None, study=other, steps=1))
    assert groups(paths) == {("east", "north")}


def test_a_site_that_reported_another_epsilon_than_its_ledger_gives_stands_out(tmp_path: Path) -> None:
    path = site_run(tmp_path, "north", ["p1"])
    artifacts.write(tmp_path / "study", replace(STUDY, epsilon={"north": 1.0}))
    out = tmp_path / "page.html"
    stage.run(ReportConfig(), [tmp_path / "study", path], out)
    assert "north reported epsilon 1 to the coordinator; its ledger gives" in section(out, "federated")


def test_a_simulated_study_comes_with_the_runs_of_its_sites(tmp_path: Path) -> None:
    artifacts.write(tmp_path / "study", replace(STUDY, simulated=True))
    site_run(tmp_path / "study" / "sites", "north", ["p1"])
    found = sources.read([tmp_path / "study"])
    assert [type(item) for item in found] == [FederatedRecord, sources.TrainedRun]
    artifacts.write(tmp_path / "study", STUDY)
    assert len(sources.read([tmp_path / "study"])) == 1


def test_a_damaged_record_of_a_study_is_refused(tmp_path: Path) -> None:
    path = artifacts.write(tmp_path, STUDY)
    path.write_text(path.read_text().replace('"quorum": 3', '"quorum": "many"'))
    with pytest.raises(DataError, match=r"federated\.json"):
        stage.run(ReportConfig(), [tmp_path], tmp_path / "page.html")


def test_differing_sums_are_those_of_neighbours_and_of_one_model_in_any_number_of_rounds() -> None:
    """A study has up to 10,000 rounds, whose pairs cannot all be compared."""
    rounds = [replace(ALL, number=number, model=number) for number in range(10_000)]
    rounds[4] = replace(WITHOUT, number=4, model=4)
    for number in (700, 702):  # opened without being accepted, from one model
        opened = SITES if number == 700 else WITHOUT.survivors
        rounds[number] = replace(LOST, number=number, model=700, opened=opened)
    rounds[701] = replace(LOST, number=701, model=700)
    found = replace(STUDY, rounds=tuple(rounds)).differing
    assert found == ((3, 4, "south"), (4, 5, "south"), (700, 702, "south"), (702, 703, "south"))


def test_the_worst_site_and_differing_sums_follow_from_the_record() -> None:
    assert section_federated._Study(STUDY, ()).worst == ("north", 7.9)
    assert STUDY.differing == ((0, 1, "south"),)
    assert section_federated._Study(replace(STUDY, epsilon={"east": None}), ()).worst is None


def test_the_copy_of_a_site_says_whose_it_is_and_names_the_largest_epsilon(tmp_path: Path) -> None:
    path = site_run(tmp_path, "north", ["p1"])
    copy = replace(STUDY, copy_of="north", epsilon={}, largest=7.9, refusals={"south": ""})
    artifacts.write(path, copy)
    out = tmp_path / "page.html"
    stage.run(ReportConfig(), [path], out)
    text = section(out, "federated")
    assert "So says the record that the coordinator gave to north at the end." in text
    assert "epsilon of the worst site 7.9 at another site, delta 0.0001" in text
    assert "not told to this site" in text
    assert "south left" in text
    assert "did not report" not in text
    assert len(sources.read([path])) == 2
    artifacts.write(tmp_path / "study", STUDY)
    stage.run(ReportConfig(overwrite=True), [path, tmp_path / "study"], out)
    text = section(out, "federated")
    assert "So says the record" not in text  # the coordinator's own counts
    assert "epsilon of the worst site 4 at west" in text


def test_accepted_sums_that_nobody_computed_again_are_named(tmp_path: Path) -> None:
    alone = replace(
        ALL, number=1, recomputed={}, unchecked="the uploads are too large", error=2e-6, short=0.3
    )
    text = page(tmp_path / "study", replace(STUDY, rounds=(ALL, alone)))
    assert "1 of 2 accepted sums, each by all 4 sites (whole)" in text
    assert "2 (the uploads are too large)" in text
    assert "largest rounding error of a weight by secure aggregation 2e-06" in text
    assert "sites with 30 % of the units took fewer steps" in text
