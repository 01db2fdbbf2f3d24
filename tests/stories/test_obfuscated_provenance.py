"""What was hidden in images, and what attackers find, stays with a model that was trained on them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from release_samples import CAVEAT, attacker, audit_record

import meninx
from meninx.cli.app import run
from meninx.core import artifacts, files, integrity
from meninx.core.artifacts import DatasetExtract, ObfuscationRecord
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.obfuscate import sealed_audit
from meninx.synthetic import write_dataset
from meninx.train import identity, testdata

QUICK = {"steps": 2, "batch_size": 4, "device": "cpu", "attack_risk": False, "model": "resnet9-small",
         "model_options": {"width": 4}}  # fmt: skip
WHERE = "measured AUROC, where it was attacked: release_audit.json of the release"
SENTENCE = f"trained on images obfuscated by Gaussian noise to hide sex, which {CAVEAT} ({WHERE})"
UNKNOWN = "not attacked: nothing is known of what it hides"
CARD = {"card": True, "authors": "A", "contact": "a@b.example", "license": "mit"}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A release that was not attacked, and a measured run of it."""
    root = tmp_path_factory.mktemp("provenance")
    data = write_dataset(root / "data", patients=60, size=16).root
    words = ["obfuscate", str(data), str(root / "hidden"), "--method", "noise", "--attribute", "sex"]
    assert run([*words, "--no-audit", "-q"]) == 0
    trained = meninx.train(root / "hidden", out=root / "runs", **QUICK)
    meninx.evaluate(trained.out, draws=20)
    shutil.move(trained.out.resolve(), root / "model")
    return root


@pytest.fixture
def attacked(work, tmp_path) -> Path:
    """The same with an audit of the release."""
    root = Path(shutil.copytree(work, tmp_path / "attacked", symlinks=True))
    record = artifacts.read(root / "hidden", ObfuscationRecord)
    audit = audit_record(
        source=record.source,
        method_summary=record.method_summary,
        attackers=(attacker("kernel", 0.9, 0.86),),
        labels=record.utility,
        classes=record.classes,
        published=record.published,
    )
    digests = {
        "checksums": integrity.digest_of(root / "hidden"),
        "obfuscation": files.digest(root / "hidden/obfuscation.json"),
    }
    sealed_audit.write(root / "hidden", replace(audit, **digests))
    return root


def text(path: Path) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", path.read_text().replace("<wbr>", "")).split())


def test_the_page_lies_beside_the_release_and_the_folder_verifies(work):
    assert UNKNOWN in text(work / "hidden" / "report.html")
    assert meninx.verify(work / "hidden").ok


def test_a_resumed_release_gets_its_page_again_and_a_dry_run_none(work, tmp_path):
    out = tmp_path / "hidden"
    assert meninx.obfuscate(work / "data", out, method="blur", audit=False, dry_run=True).page is None
    made = meninx.obfuscate(work / "data", out, method="blur", audit=False)
    assert made.page == out.resolve() / "report.html"
    made.page.unlink()
    meninx.obfuscate(work / "data", out, method="blur", audit=False, resume=True)
    assert made.page.is_file()
    meninx.obfuscate(work / "data", out, method="pixelation", audit=False, overwrite=True)
    assert "pixelation" in text(made.page)


def test_report_and_card_of_a_run_say_what_its_images_are(work, attacked, tmp_path):
    for root, finding in ((work, UNKNOWN), (attacked, "measured AUROC 0.860 [0.800, 0.920]")):
        page = tmp_path / f"{root.name}.html"
        sources = [root / "hidden", root / "model"]
        meninx.report(sources, page, **CARD, overwrite=True)
        assert f"{SENTENCE}; {finding}" in text(page)
        card = (root / "model" / "release" / "MODEL_CARD.md").read_text().replace("\\", "")
        assert SENTENCE.removeprefix("trained on ") in card
        assert finding in card


def test_a_report_without_the_release_says_that_nothing_is_known_here(work, tmp_path):
    result = meninx.report([work / "model"], tmp_path / "page.html")
    assert result.verdicts["Attribute hidden?"] == "grey: not known"
    assert f"{SENTENCE}; what attackers find in them is not known here" in text(tmp_path / "page.html")


def test_the_dossier_says_it_first(work, attacked, tmp_path):
    for root, finding in ((work, UNKNOWN), (attacked, "measured AUROC 0.860")):
        out = tmp_path / f"dossier-{root.name}"
        meninx.dossier([root / "hidden", root / "model"], out)
        record = json.loads((out / "dossier.json").read_text())
        assert any(f"{SENTENCE}; {finding}" in warning for warning in record["warnings"])
        assert finding in artifacts.read(out, DatasetExtract).attribute_found
        assert meninx.verify(out).ok


def test_a_dossier_without_the_release_says_that_it_is_not_shown(work, tmp_path):
    meninx.dossier([work / "model"], tmp_path / "dossier")
    record = json.loads((tmp_path / "dossier" / "dossier.json").read_text())
    assert any("what attackers find in them is not shown" in warning for warning in record["warnings"])


def test_patients_of_a_release_are_compared_with_its_source_by_identifiers_and_not_by_names(work, tmp_path):
    data = Manifest.read(work / "data")
    run_of_release = Run(work / "model")
    assert not testdata.standing(run_of_release, data, data.split("test"), given=True).compared
    root = Path(shutil.copytree(work / "data", tmp_path / "data"))
    rows = [
        f"{case.case_id},{case.patient_id},k-{case.case_id},id-{case.patient_id},x" for case in data.cases
    ]
    (root / "private").mkdir(exist_ok=True)
    (root / "private/cases.csv").write_text("\n".join(["case_id,patient_id,key,patient,where", *rows, ""]))
    out = meninx.obfuscate(root, tmp_path / "out", method="blur", audit=False).out
    known = identity.identifiers_of(Manifest.read(root))
    assert len(known) == len(data.patients)
    assert identity.identifiers_of(Manifest.read(out)) == known
