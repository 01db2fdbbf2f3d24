"""Approval: one revision, one site, one signature; whatever changes afterwards ends it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from meninx.core import signed_file
from meninx.core.errors import DataError, MeninxError, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest
from meninx.federated import approval, approval_page, code_hash, enrolment, site_doctor, site_folder, study
from meninx.federated.approval import Approval
from meninx.federated.approval_page import bytes_per_round, network_size
from meninx.federated.code_hash import CodeVersion
from meninx.federated.config import DataConfig, StudyConfig
from meninx.secagg.roster import Roster
from meninx.synthetic import write_dataset


def _policy(site, text: str) -> None:
    (site.root / "policy.toml").write_text(text)


def _edit(path: Path, **changes: object) -> None:
    """Change the statement in a signed file without signing it again."""
    envelope = json.loads(path.read_bytes())
    envelope["body"] = json.dumps(json.loads(envelope["body"]) | changes, sort_keys=True)
    path.write_bytes(json.dumps(envelope).encode())


def test_three_approvals_make_a_roster_that_every_site_accepts(consortium):
    with pytest.raises(PrivacyRefusal, match="east has not answered"):
        approval.agreed(consortium.folder)
    consortium.approve_all()
    found, roster = approval.agreed(consortium.folder)
    assert found.digest == consortium.study.digest
    assert roster.terms.hex() == found.digest
    for site in consortium.sites.values():
        own = approval.approved(site, "chest")
        assert own.data.resolve() == consortium.data.resolve()
        assert approval.check_roster(roster.to_bytes(), own).hash == roster.hash


def test_nothing_is_approved_by_looking(consortium):
    site = consortium.sites["north"]
    before = sorted(path.name for path in site.root.rglob("*"))
    page = approval.review(site, consortium.study, consortium.data)
    assert not page.approved
    assert not page.reasons
    assert sorted(path.name for path in site.root.rglob("*")) == before
    with pytest.raises(PrivacyRefusal, match="has not approved"):
        approval.approved(site, "chest")


def test_the_page_says_what_is_asked_in_one_page(consortium):
    page = approval.review(consortium.sites["north"], consortium.study, consortium.data)
    text = page.summary()
    assert len(text.splitlines()) <= 50
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        page.in_words,
        page.coordinator,
        *page.sites.values(),
        "308,115 parameters",
        "epsilon 8 at delta 0.001 per patient",
        "secure aggregation by masks",
        "2 colluding sites are not covered",
        "1.2 MB a round",
        code_hash.installed().digest,
        "Nothing is approved without --approve",
    ):
        assert "".join(words.split()) in "".join(text.split())
    assert page.bytes_per_round == 308_115 * 4
    assert json.loads(page.to_json())["digest"] == consortium.study.digest


def test_a_refusal_is_signed_and_recorded_on_both_sides(consortium):
    site = consortium.sites["north"]
    consortium.approve_all()
    path = approval.refuse(site, consortium.study, "the board meets in \x1b[2J May")
    assert approval.receive(consortium.folder, path) == "north refuses: the board meets in ?[2J May"
    with pytest.raises(PrivacyRefusal, match="north refuses: the board"):
        approval.agreed(consortium.folder)
    with pytest.raises(PrivacyRefusal, match="has not approved"):
        approval.approved(site, "chest")
    for log in (site.log(), consortium.folder.log()):
        assert any("the board meets" in str(entry.details) for entry in log.verify())
    for words in ("", "  ", "x" * 501):
        with pytest.raises(UsageError):
            approval.refuse(site, consortium.study, words)


def test_a_policy_that_refuses_cannot_be_approved_and_says_so_in_the_log(consortium):
    site = consortium.sites["north"]
    _policy(site, 'max_epsilon = 2.0\nmax_delta = 1e-3\nallowed_recipes = ["tiny"]')
    page = approval.review(site, consortium.study, consortium.data)
    assert "This site refuses the study" in page.summary()
    with pytest.raises(PrivacyRefusal, match="max_epsilon"):
        approval.approve(site, consortium.study, consortium.data)
    assert not site.approval_path("chest").exists()
    entry = site.log().verify()[-1]
    assert (entry.event, "max_epsilon" in entry.details["reason"]) == ("study refused", True)


@pytest.mark.parametrize("text", ["max_epsilom = 1.0", "x = ["])
def test_without_a_readable_policy_nothing_is_shown_or_approved(consortium, text):
    site = consortium.sites["north"]
    approval.approve(site, consortium.study, consortium.data)
    _policy(site, text)
    for step in (
        lambda: approval.review(site, consortium.study, consortium.data),
        lambda: approval.approve(site, consortium.study, consortium.data),
        lambda: approval.approved(site, "chest"),
    ):
        with pytest.raises(PrivacyRefusal, match="no study"):
            step()
    (site.root / "policy.toml").unlink()
    with pytest.raises(PrivacyRefusal, match="no study"):
        approval.approved(site, "chest")


def test_an_approval_ends_when_the_policy_becomes_stricter(consortium):
    site = consortium.sites["north"]
    approval.approve(site, consortium.study, consortium.data)
    _policy(site, 'max_epsilon = 2.0\nmax_delta = 1e-3\nallowed_recipes = ["tiny"]')
    with pytest.raises(PrivacyRefusal, match="policy refuses the study now"):
        approval.approved(site, "chest")
    assert site.log().verify()[-1].event == "study refused"


def test_an_approval_ends_when_the_code_changes(consortium, monkeypatch):
    consortium.approve_all()
    site = consortium.sites["north"]
    other = CodeVersion(code_hash.installed().version, "f" * 64)
    monkeypatch.setattr(code_hash, "installed", lambda: other)
    with pytest.raises(PrivacyRefusal, match="source differs"):
        approval.approved(site, "chest")
    with pytest.raises(PrivacyRefusal, match="source differs"):
        approval.agreed(consortium.folder)


def test_an_approval_ends_when_the_dataset_changes(consortium, tmp_path):
    site, data = consortium.sites["north"], tmp_path / "data"
    write_dataset(data, patients=40, size=32)
    approval.approve(site, consortium.study, data)
    table = data / "manifest.csv"
    table.write_text(table.read_text().replace(",valid,", ",train,"))
    with pytest.raises(MeninxError, match="dataset"):
        approval.approved(site, "chest")


def test_an_approval_ends_when_the_site_has_new_keys(consortium):
    site = consortium.sites["north"]
    approval.approve(site, consortium.study, consortium.data)
    site.rotate()
    with pytest.raises(PrivacyRefusal, match="signature"):
        approval.approved(site, "chest")


def test_a_changed_study_needs_every_approval_again(consortium):
    consortium.approve_all()
    text = (consortium.folder.root / "study.toml").read_text()
    changed = text.replace("epsilon = 8.0", "epsilon = 7.0")
    (consortium.folder.root / "study.toml").write_text(changed)
    with pytest.raises(UsageError, match="changed since"):
        approval.agreed(consortium.folder)
    before = consortium.folder.published()
    consortium.folder.publish(before.file.sites)
    with pytest.raises(PrivacyRefusal, match="east answered about another revision; north answered"):
        approval.agreed(consortium.folder)
    with pytest.raises(UsageError, match="another revision"):
        approval.receive(consortium.folder, consortium.sites["north"].approval_path("chest"))
    consortium.approve_all()
    assert approval.agreed(consortium.folder)[0].config.training.privacy.epsilon == 7.0


def test_a_coordinator_cannot_go_back_to_an_earlier_revision(consortium):
    site, first = consortium.sites["north"], consortium.study
    enrolment.revoke(consortium.folder, ["west"])
    south = site_folder.create(site.root.parent / "south", "south", site.policy())
    enrolment.request(south)
    enrolment.accept(consortium.folder, [south.request_path])
    approval.approve(site, consortium.study, consortium.data)
    with pytest.raises(PrivacyRefusal, match="approved revision 3 already"):
        approval.approve(site, first, consortium.data)
    without = msgspec.structs.replace(consortium.study.file, revision=9, revoked=())
    forged = study.study_of(signed_file.seal(without, consortium.folder.keys().signing), where="s")
    with pytest.raises(PrivacyRefusal, match="no longer revoked"):
        approval.approve(site, forged, consortium.data)
    same = msgspec.structs.replace(consortium.study.file, made="2020-01-01")
    other = study.study_of(signed_file.seal(same, consortium.folder.keys().signing), where="s")
    with pytest.raises(PrivacyRefusal, match="this is another of number 3"):
        approval.approve(site, other, consortium.data)


def test_another_coordinator_under_a_known_name_is_refused(consortium, tmp_path):
    site = consortium.sites["north"]
    approval.approve(site, consortium.study, consortium.data)
    config = StudyConfig.of(data=consortium.study.config.data, rounds=2, train=consortium.study.config.train)
    other = study.create(tmp_path / "other" / "chest", config)
    enrolment.accept(other, [item.request_path for item in consortium.sites.values()])
    with pytest.raises(PrivacyRefusal, match="not the coordinator"):
        approval.approve(site, other.study(), consortium.data)


def test_a_study_with_other_keys_for_this_site_is_refused(consortium):
    site, name = consortium.sites["north"], "north"
    impostor = site_folder.create(site.root.parent / "impostor", name, site.policy())
    enrolment.request(impostor)
    enrolment.revoke(consortium.folder, [name])
    enrolment.accept(consortium.folder, [impostor.request_path])
    with pytest.raises(PrivacyRefusal, match="other keys for this site"):
        approval.approve(site, consortium.study, consortium.data)


def test_the_expected_digest_is_compared(consortium):
    site, digest = consortium.sites["north"], consortium.study.digest
    with pytest.raises(UsageError, match="reviewed"):
        approval.approve(site, consortium.study, consortium.data, expect="0" * 64)
    assert approval.approve(site, consortium.study, consortium.data, expect=digest[:12]).approved


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "0" * 64},
        {"site": "east"},
        {"study": "other"},
        {"roster": ""},
        {"audit": "x"},
        {"made": "\x1b"},
        {"extra": 1},
    ],
)
def test_an_edited_answer_is_refused(consortium, changes):
    site = consortium.sites["north"]
    approval.approve(site, consortium.study, consortium.data)
    path = site.approval_path("chest")
    _edit(path, **changes)
    with pytest.raises(MeninxError):
        approval.receive(consortium.folder, path)
    assert not list(consortium.folder.approvals.glob("*")) if consortium.folder.approvals.exists() else True


def test_an_audit_log_that_was_put_back_is_noticed_by_the_coordinator(consortium):
    site, study = consortium.sites["north"], consortium.study
    room = site.root / "private"
    copies = {name: (room / name).read_bytes() for name in ("audit.jsonl", "audit.head")}
    approval.refuse(site, study, "not yet")
    approval.approve(site, study, consortium.data)
    path = site.approval_path("chest")
    assert approval.receive(consortium.folder, path) == "north approves"
    assert approval.receive(consortium.folder, path) == "north approves"
    for name, content in copies.items():
        (room / name).write_bytes(content)
    approval.approve(site, study, consortium.data)
    with pytest.raises(PrivacyRefusal, match="put back"):
        approval.receive(consortium.folder, path)


def test_an_answer_under_the_name_of_another_site_does_not_count(consortium):
    consortium.approve_all()
    folder = consortium.folder.approvals
    (folder / "approval-chest-north.json").write_bytes((folder / "approval-chest-east.json").read_bytes())
    with pytest.raises(DataError, match="another site"):
        approval.agreed(consortium.folder)


def test_a_site_that_signs_another_roster_is_named(consortium):
    consortium.approve_all()
    site = consortium.sites["north"]
    path = consortium.folder.approvals / "approval-chest-north.json"
    statement = signed_file.read(path.read_bytes(), Approval, where="x")
    wrong = msgspec.structs.replace(statement, roster=site.keys().signing.sign(b"another"))
    path.write_bytes(signed_file.seal(wrong, site.keys().signing))
    with pytest.raises(PrivacyRefusal, match="north"):
        approval.agreed(consortium.folder)


def test_a_roster_with_other_terms_or_without_signatures_is_refused_by_the_site(consortium):
    consortium.approve_all()
    _, roster = approval.agreed(consortium.folder)
    own = approval.approved(consortium.sites["north"], "chest")
    other = Roster(study="chest", members=roster.members, terms=bytes(32))
    signatures = {name: other.signature(site.keys().signing) for name, site in consortium.sites.items()}
    signed = other.signed(signatures)
    with pytest.raises(PrivacyRefusal, match="another roster"):
        approval.check_roster(signed.to_bytes(), own)
    with pytest.raises(PrivacyRefusal, match="0 of 3 sites signed"):
        approval.check_roster(own.roster.to_bytes(), own)
    with pytest.raises(DataError):
        approval.check_roster(b"garbage", own)


@pytest.mark.parametrize("name", ["study.json", "approval.json", "data.json"])
def test_what_a_site_stored_is_checked_at_each_start(consortium, name):
    site = consortium.sites["north"]
    approval.approve(site, consortium.study, consortium.data)
    path = site.study_folder("chest") / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"chest", b"chets").replace(b'"digest": "', b'"digest": "0'))
    with pytest.raises(MeninxError) as caught:
        approval.approved(site, "chest")
    assert caught.value.exit_code in (2, 3, 4)
    path.unlink()
    with pytest.raises(MeninxError):
        approval.approved(site, "chest")


def test_a_name_of_a_study_never_becomes_another_path(consortium):
    site = consortium.sites["north"]
    for name in ("../../etc", "", "a/b", "CHEST"):
        with pytest.raises(MeninxError):
            approval.approved(site, name)


def test_the_size_of_an_update_counts_the_statistics_of_batch_norm():
    facts = DataConfig.of(data_task="multilabel", labels=("effusion",), size=(8, 8))
    plain, normed = (
        network_size(
            StudyConfig.of(data=facts, train={"model": "monai:DenseNet121", "model_options": options})
        )
        for options in ({"norm": "instance"}, {"norm": "batch"})
    )
    assert plain is not None
    assert normed is not None
    assert plain[0] == plain[1]
    assert normed[1] > normed[0]


def test_bytes_follow_the_method():
    def size(**settings: object) -> int:
        return bytes_per_round(StudyConfig.of(**settings), 1000)

    assert size() == 4000
    assert size(bits=64) == 8000
    assert size(aggregation="plain") == 4000
    assert size(aggregation="shares") == 8000  # the rest and the sum of shares; a share is a seed
    assert size(aggregation="ckks") == 40_400  # ciphertexts and the decrypted sum


def test_nothing_of_a_size_that_no_policy_allows_is_built(consortium, monkeypatch):
    def build(config: StudyConfig) -> None:
        raise AssertionError

    monkeypatch.setattr(approval_page, "network_size", build)
    site = consortium.sites["north"]
    _policy(site, "max_epsilon = 8.0\nmax_delta = 1e-3\n")
    assert "not built" in approval.review(site, consortium.study, consortium.data).network


def test_a_site_with_more_patients_than_the_study_counts_is_refused_before_it_starts(
    consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secure aggregation has room for 4,096 patients of a site unless the study says otherwise."""
    site, study_path = consortium.sites["north"], consortium.folder.study_path
    page = approval.review(site, consortium.study, consortium.data)
    trained = len(Manifest.read(consortium.data).split("train").patients)
    assert page.weight == f"{trained} patients to train on; the study allows 4,096 per site (max_units)"
    assert "the study allows 4,096 per site" in " ".join(page.summary().split())
    monkeypatch.setattr(approval_page, "units_of", lambda training, data: 4096)
    assert not approval.review(site, consortium.study, consortium.data).reasons
    monkeypatch.setattr(approval_page, "units_of", lambda training, data: 4097)
    (reason,) = approval.review(site, consortium.study, consortium.data).reasons
    assert "4,097 patients to train on, the study allows at most 4,096 (max_units)" in reason
    assert "max_units = 8192" in reason
    with pytest.raises(PrivacyRefusal, match="at most 4,096"):
        approval.approve(site, consortium.study, consortium.data)
    with pytest.raises(PrivacyRefusal, match="has not approved"):
        approval.approved(site, "chest")
    found = site_doctor.examine(site.root, study_path, consortium.data)
    assert [check.name for check in found.failed] == ["weight"]
    assert "max_units = 8192" in found.summary()


def test_a_bound_that_has_room_lets_the_large_site_take_part(
    consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval_page, "units_of", lambda training, data: 4097)
    toml = consortium.folder.root / "study.toml"
    toml.write_text(toml.read_text().replace("max_units = 0", "max_units = 8192"))
    consortium.folder.publish(consortium.folder.published().file.sites)
    site = consortium.sites["north"]
    page = approval.approve(site, consortium.study, consortium.data)
    assert page.weight == "4,097 patients to train on; the study allows 8,192 per site (max_units)"
    assert page.bytes_per_round == 308_115 * 8
    assert approval.approved(site, "chest").study.config.aggregation.ring_bits == 64


def test_the_weight_of_a_study_that_declares_it_and_of_one_without_a_bound(consortium) -> None:
    data, config = Manifest.read(consortium.data), consortium.study.config
    declared = config.replace(train={**config.train, "units_declared": 30})
    words, reasons = approval_page.weight_words(declared, data)
    assert words == "30 patients, as declared by the study; the study allows 4,096 per site (max_units)"
    plain = config.replace(aggregation="plain")
    words, more = approval_page.weight_words(plain, data)
    assert "there is no bound" in words
    assert (reasons, more) == ([], [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "computes each sum again"),
        ({"aggregation": "ckks"}, "decrypts each sum"),
        ({"aggregation": "plain"}, "the coordinator can send any model"),
        ({"aggregation": "plain", "algorithm": "cyclic"}, "the coordinator can send any model"),
    ],
)
def test_the_page_says_what_the_site_checks_of_the_models(consortium, settings, words):
    page = approval.review(consortium.sites["north"], consortium.study, consortium.data)
    study = StudyConfig.of(**settings)
    text = dataclasses.replace(page, checks=approval_page.checks_words(study)).summary()
    assert "".join(words.split()) in "".join(text.split())
    assert ("That includes this site" in approval_page.aggregation_words(study, 4)) == (
        not study.aggregation.secure
    )
