"""Releases of one dataset are compared; others, and those that were not attacked, are refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_samples import STRENGTH, attacker, audit_record, loss, seal, write_release

import meninx
from meninx.cli.app import run
from meninx.core import artifacts
from meninx.core.artifacts import Origin, ReleaseComparisonRecord
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest, dataset_digest
from meninx.obfuscate import sealed_audit
from meninx.report import release_comparison, release_pareto
from meninx.synthetic import write_dataset


def losses(*values: float):
    return tuple(
        loss(label, regime, value)
        for label, value in zip(("effusion", "nodule"), values, strict=True)
        for regime in ("retrained", "drop-in")
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Three releases of one dataset: noise, more noise, and codes, which are beaten by nothing."""
    root = tmp_path_factory.mktemp("releases")
    write_release(root / "noise-a", audit=audit_record(utility=losses(0.01, 0.03)))
    more = attacker("kernel", 0.8, 0.82)
    write_release(root / "noise-b", settings={"budget": 0.1},
                  audit=audit_record(attackers=(more,), utility=losses(0.2, 0.4)))  # fmt: skip
    method = {"method": "codes", "method_summary": "codes", "caveat": "is proven with a certificate"}
    quiet = attacker("kernel", 0.6, 0.56)
    codes = audit_record(attackers=(quiet,), utility=losses(0.1, 0.2), **method)
    write_release(root / "codes", audit=codes, settings={}, facts={"codes": 6}, **method)
    return root


@pytest.fixture
def three(template, tmp_path) -> list[Path]:
    copied = Path(shutil.copytree(template, tmp_path / "releases"))
    return [copied / name for name in ("noise-a", "noise-b", "codes")]


def test_the_comparison_writes_table_record_figures_and_page(three, tmp_path, capsys):
    out = tmp_path / "compared"
    assert run(["obfuscate", "compare", *map(str, three), "--out", str(out)]) == 0
    assert (
        "codes (codes 6): attacker chosen on validation kernel 0.560 [0.500, 0.620], highest of all kernel "
        "0.560, largest upper limit 0.620, mean loss 0.150" in capsys.readouterr().out
    )
    rows = list(csv.DictReader((out / "release_comparison.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["codes", "noise-b", "noise-a"]
    assert [row["best"] for row in rows] == ["True", "False", "True"]
    record = artifacts.read(out, ReleaseComparisonRecord)
    assert record.releases[2].loss == pytest.approx(0.02)
    assert (record.releases[2].loss_low, record.releases[2].loss_high) == pytest.approx((0.0, 0.04))
    assert [row.strength for row in record.releases] == ["6", "0.1", "0.05"]
    assert (out / "release_comparison.png").read_bytes().startswith(b"\x89PNG")
    drawn = (out / "release_comparison.svg").read_text()
    assert "noise 0.1" in drawn
    assert "codes 6" in drawn
    page = (out / "report.html").read_text()
    assert "Whoever chooses a release by these numbers" in page
    assert page.count('class="card ') == 3


def test_equal_releases_give_equal_files(three, tmp_path):
    for name in ("one", "two"):
        meninx_compare(three, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def meninx_compare(releases, out, **more):
    return release_comparison.compare(releases, out, **more)


def test_a_label_that_one_release_could_not_measure_leaves_the_mean(three, tmp_path):
    audit = artifacts.read(three[0], type(audit_record()))
    refused = [replace(item, loss=None, refusal="insufficient") if item.label == "nodule" else item
               for item in audit.utility]  # fmt: skip
    sealed_audit.write(three[0], replace(audit, utility=tuple(refused)))
    record = meninx_compare(three, tmp_path / "out").record
    assert (record.labels, record.left_out) == (("effusion",), ("nodule",))
    assert {row.name: row.loss for row in record.releases}["noise-b"] == pytest.approx(0.2)


def test_releases_of_different_data_are_refused(three, tmp_path):
    write_release(tmp_path / "other", audit=audit_record(), patients=13)
    with pytest.raises(DataError, match=r"different data \(noise-a, other\)"):
        meninx_compare([three[0], tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "audit", "message"),
    [
        ({"attribute": "age"}, {"attribute": "age"}, "different attributes"),
        ({"classes": ("M", "F", "X")}, {"classes": ("M", "F", "X")}, "different classes"),
        ({}, {"classes": ("M", "F", "X")}, "other classes of the attribute"),
        ({"utility": ("effusion",)}, {"labels": ("effusion",)}, "different labels"),
        ({}, {"published": ("effusion", "nodule", "age")}, "different published columns"),
        ({}, {"strength": replace(STRENGTH, epochs=1)}, "different strength: attack_epochs 15 and 1"),
        ({}, {"not_measured": ("certificate: its private room is not here",)}, "not everything was measured"),
        ({}, {"attribute": "age"}, "another attribute was attacked than hidden"),
        ({}, {"splits": {"valid": 9, "test": 60}}, "different patients in the splits"),
    ],
)
def test_releases_that_answer_different_questions_are_refused(three, tmp_path, fields, audit, message):
    write_release(tmp_path / "other", audit=audit_record(**audit), **fields)
    with pytest.raises(DataError, match=message):
        meninx_compare([three[0], tmp_path / "other"], tmp_path / "out")


def test_a_release_that_was_not_attacked_is_refused(three, tmp_path):
    write_release(tmp_path / "plain")
    with pytest.raises(DataError, match=r"was not attacked \(plain\)"):
        meninx_compare([three[0], tmp_path / "plain"], tmp_path / "out")


def test_one_release_or_one_twice_is_no_comparison(three, tmp_path):
    for given_ones in ([three[0]], [three[0], three[0]]):
        with pytest.raises(UsageError, match="two different releases"):
            meninx_compare(given_ones, tmp_path / "out")


def test_an_earlier_comparison_stays_unless_it_is_to_be_replaced(three, tmp_path):
    meninx_compare(three, tmp_path / "out")
    with pytest.raises(UsageError, match="comparison already"):
        meninx_compare(three, tmp_path / "out")
    meninx_compare(three, tmp_path / "out", overwrite=True)


def test_with_the_original_the_releases_are_proven_to_be_of_it(tmp_path):
    original = write_dataset(tmp_path / "data", patients=12, size=16).root
    key = b"k" * 32
    source = Origin(run="", data=artifacts.keyed(key, "data", dataset_digest(original).digest))
    made = [write_release(tmp_path / name, audit=audit_record(source=source), source=source) for name in "ab"]
    with pytest.raises(DataError, match="without its key"):
        meninx_compare(made, tmp_path / "out", original=original)
    for root in made:
        seal(root, key)
    assert meninx_compare(made, tmp_path / "out", original=original).record.original_given
    other = write_dataset(tmp_path / "other", patients=12, size=16, seed=1).root
    with pytest.raises(DataError, match="no release of this original"):
        meninx_compare(made, tmp_path / "out2", original=other)


def test_hostile_names_stay_text_in_table_and_page(tmp_path):
    name = "=cmd|<script>alert(1)</script>"
    found = attacker(name, 0.9, 0.83)
    audit = audit_record(attackers=(found,), method=name, method_summary=name, caveat=name)
    made = [
        write_release(tmp_path / one, audit=audit, method=name, method_summary=name, caveat=name,
                      facts={"codes": 10**12}, settings={"budget": True})
        for one in ("a", "b")
    ]  # fmt: skip
    meninx_compare(made, tmp_path / "out")
    assert "<script" not in (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in (tmp_path / "out" / "release_comparison.svg").read_text()
    rows = csv.reader((tmp_path / "out" / "release_comparison.csv").read_text().splitlines())
    assert not any(cell.startswith("=") for row in rows for cell in row)
    assert json.loads((tmp_path / "out" / "release_comparison.json").read_text())["attribute"] == "sex"


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.3]), st.sampled_from([0.5, 0.6, 0.7])), max_size=8)
)
def test_the_front_holds_exactly_the_points_that_no_other_one_beats(points):
    front = {points[place] for place in release_pareto.front(points)}
    beaten = {
        (x, y) for x, y in points if any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
    }  # fmt: skip
    assert front == set(points) - beaten


def test_no_word_promises_more_than_was_measured(three, tmp_path):
    meninx_compare(three, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text().split("</style>")[1]
    assert not re.search(r"\b(anonym\w*|safe\w*)\b", text, re.IGNORECASE)
    assert len(Manifest.read(three[0])) > 0
    assert meninx.verify(three[0]) is not None
