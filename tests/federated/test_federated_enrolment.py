"""Enrolment: who asks holds the keys, a name belongs to its first keys, a revoked key never returns."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest

from meninx.core import files, signed_file
from meninx.core.errors import DataError, MeninxError, PrivacyRefusal, UsageError
from meninx.federated import authority, enrolment, enrolment_keys, site_folder
from meninx.federated.enrolment import EnrolmentRequest
from meninx.federated.policy import PolicyConfig
from meninx.federated.site_folder import SiteFolder


@pytest.fixture
def stranger(tmp_path: Path) -> SiteFolder:
    site = site_folder.create(tmp_path / "elsewhere" / "site", "south", PolicyConfig())
    enrolment.request(site)
    return site


def _signed(path: Path, site: SiteFolder, **changes: object) -> Path:
    """The request of a site with other content, signed again by the site."""
    found = signed_file.read(site.request_path.read_bytes(), EnrolmentRequest, where="x")
    path.write_bytes(signed_file.seal(msgspec.structs.replace(found, **changes), site.keys().signing))
    return path


def test_a_site_has_private_keys_that_only_its_owner_reads(stranger):
    keys = sorted((stranger.private / "keys").iterdir())
    assert [path.name for path in keys] == ["node.key", "signing.key", "tls.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert stat.S_IMODE(stranger.private.stat().st_mode) == 0o700
    assert b"PRIVATE" not in stranger.request_path.read_bytes()
    assert stranger.keys().public == stranger.keys().public
    node = (stranger.private / "keys" / "node.key").read_bytes()
    assert node.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")


def test_fingerprints_have_132_bits_and_differ():
    found = {enrolment_keys.generate("north").public.in_words() for _ in range(20)}
    assert len(found) == 20
    assert all(len(words.split()) == 12 for words in found)
    low, high = bytes(32), bytes([255]) * 32
    assert enrolment_keys.words(low) == " ".join(["a"] * 12)
    assert enrolment_keys.words(high) == " ".join(["yoke"] * 12)
    assert enrolment_keys.words(b"\x00" * 16 + b"\x10" + b"\x00" * 15).split()[-1] == "abe"


def test_the_word_list_has_2048_different_words():
    found = enrolment_keys._word_list()
    assert len(found) == len(set(found)) == 2048
    assert all(word.isalpha() and word.islower() and len(word) <= 4 for word in found)


def test_an_accepted_site_has_a_certificate_of_its_own_key(consortium):
    for site in consortium.study.file.sites:
        own = consortium.sites[site.name].keys().public
        assert site.keys == own
        root = consortium.study.file.coordinator.authority
        assert authority.check_issued(site.certificate, root, site.name, where="x") is None
        assert 390 < authority.days_left(site.certificate) <= 397


def test_accepting_again_changes_nothing_until_the_certificate_nears_its_end(consortium, monkeypatch):
    before = consortium.study
    path = consortium.sites["north"].request_path
    _, (done,) = enrolment.accept(consortium.folder, [path])
    assert done.change == "unchanged"
    assert consortium.study.digest == before.digest
    monkeypatch.setattr(authority, "WARNING_DAYS", 400)
    _, (done,) = enrolment.accept(consortium.folder, [path])
    assert done.change == "renewed"
    assert consortium.study.file.revision == before.file.revision + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../south"},
        {"name": "coordinator"},
        {"name": "South"},
        {"name": "south\n"},
        {"made": "\x1b]0;"},
        {"node": b"none"},
        {"tls": b""},
        {"signing": bytes(31)},
        {"node_proof": b"none"},
        {"tls_proof": b""},
        {"name": "other"},  # the proofs are over the name, too
        {"previous": bytes(32), "continuity": bytes(64)},
    ],
)
def test_an_odd_request_is_refused_although_it_is_signed(consortium, stranger, tmp_path, changes):
    path = _signed(tmp_path / "enrol.json", stranger, **changes)
    before = consortium.study.digest
    with pytest.raises(MeninxError) as caught:
        enrolment.accept(consortium.folder, [path])
    assert caught.value.exit_code in (3, 4)
    assert str(caught.value).isprintable()
    assert consortium.study.digest == before


def test_keys_of_another_site_are_proven_not_claimed(consortium, stranger, tmp_path):
    other = consortium.sites["north"].keys().public
    for changes in ({"node": other.node}, {"tls": other.tls}):
        with pytest.raises(PrivacyRefusal, match="does not prove"):
            enrolment.read_request(_signed(tmp_path / "enrol.json", stranger, **changes))


def test_a_name_that_is_enrolled_is_not_given_to_other_keys(consortium, tmp_path):
    impostor = site_folder.create(tmp_path / "elsewhere", "north", PolicyConfig())
    enrolment.request(impostor)
    with pytest.raises(PrivacyRefusal, match="telephone the site"):
        enrolment.accept(consortium.folder, [impostor.request_path])


def test_one_bad_request_keeps_the_others_out(consortium, stranger, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_bytes(stranger.request_path.read_bytes().replace(b"enrolment", b"enrolmint"))
    with pytest.raises(MeninxError):
        enrolment.accept(consortium.folder, [stranger.request_path, bad])
    assert "south" not in consortium.study.site_names
    twice = tmp_path / "twice.json"
    twice.write_bytes(stranger.request_path.read_bytes())
    with pytest.raises(DataError, match="one site"):
        enrolment.accept(consortium.folder, [stranger.request_path, twice])


def test_rotated_keys_are_accepted_with_the_word_of_the_old_ones(consortium):
    site = consortium.sites["north"]
    old = site.keys().public
    request_before = site.request_path.read_bytes()
    before = site.rotate()
    enrolment.request(site, before=before)
    study, (done,) = enrolment.accept(consortium.folder, [site.request_path])
    assert (done.change, done.retired) == ("rotated", old.fingerprint())
    assert study.file.revoked == (old.fingerprint(),)
    assert study.site("north").keys == site.keys().public != old
    assert [entry.event for entry in site.log().verify()][-2:] == ["keys rotated", "enrolment requested"]
    site.request_path.write_bytes(request_before)
    with pytest.raises(PrivacyRefusal, match="revoked"):
        enrolment.accept(consortium.folder, [site.request_path])


def test_keys_can_be_rotated_again_and_again(stranger):
    found = {stranger.keys().public.fingerprint()}
    for _ in range(3):
        stranger.rotate()
        found.add(stranger.keys().public.fingerprint())
    assert len(found) == 4
    assert enrolment_keys.retired(stranger.root) == ("retired/000", "retired/001", "retired/002")
    assert len(stranger.log().verify()) == 6


@pytest.mark.parametrize("step", range(9))
def test_a_rotation_that_is_killed_is_completed_by_the_next(stranger, monkeypatch, step):
    """The process dies before each write or rename in turn."""
    old, left = stranger.keys().public, [step]

    def dying(original):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return original(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", dying(files.write_bytes))
        patch.setattr(files, "append_line", dying(files.append_line))
        patch.setattr(Path, "rename", dying(Path.rename))
        try:
            stranger.rotate()
        except KeyboardInterrupt:
            assert step < 8
        else:
            assert step == 8
    if step < 8:
        assert stranger.rotate().public == old
    assert stranger.keys().public != old
    assert [entry.event for entry in stranger.log().verify()].count("keys rotated") == 1
    assert len(enrolment_keys.retired(stranger.root)) == 1


def test_a_revoked_site_stays_out_until_it_has_new_keys(consortium):
    site = consortium.sites["north"]
    study = enrolment.revoke(consortium.folder, ["north"])
    assert study.site_names == ("east", "west")
    with pytest.raises(PrivacyRefusal, match="revoked"):
        enrolment.accept(consortium.folder, [site.request_path])
    with pytest.raises(UsageError, match="not enrolled"):
        enrolment.revoke(consortium.folder, ["north"])
    site.rotate()
    enrolment.request(site)
    study, _ = enrolment.accept(consortium.folder, [site.request_path])
    assert study.site_names == ("east", "north", "west")
    events = [entry.event for entry in consortium.folder.log().verify()]
    assert events.count("site enrolled") == 4
    assert events.count("site revoked") == 1


def test_only_the_invited_are_accepted(consortium, stranger):
    text = (consortium.folder.root / "study.toml").read_text()
    invited = 'names = [\n    "east",\n    "north",\n    "west",\n]'
    (consortium.folder.root / "study.toml").write_text(text.replace("names = []", invited))
    with pytest.raises(UsageError, match="not invited"):
        enrolment.accept(consortium.folder, [stranger.request_path])


def test_a_folder_that_holds_something_is_no_place_for_a_site(tmp_path, stranger):
    with pytest.raises(UsageError, match="not empty"):
        site_folder.create(stranger.root, "south", PolicyConfig())
    for name in ("../x", "", "Coordinator", "coordinator", "a/b"):
        with pytest.raises(UsageError, match="name"):
            site_folder.create(tmp_path / "new", name, PolicyConfig())
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="no such folder"):
        site_folder.open_folder(tmp_path / "new")


def test_a_prepared_policy_is_the_policy(tmp_path):
    root = tmp_path / "north"
    root.mkdir()
    (root / "policy.toml").write_text("max_epsilon = 0.5\n")
    assert site_folder.create(root, "north", PolicyConfig(max_epsilon=9.0)).policy().max_epsilon == 0.5


@pytest.mark.parametrize("content", [b"", b"{}", b'{"name": "../x", "made": ""}', b"\xff"])
def test_a_damaged_record_of_a_site_is_no_name(stranger, content):
    (stranger.private / "site.json").write_bytes(content)
    with pytest.raises(MeninxError):
        site_folder.open_folder(stranger.root)


@pytest.mark.parametrize("name", ["signing.key", "node.key", "tls.key"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n", b"x" * (1 << 15)])
def test_a_damaged_key_is_a_sentence(stranger, name, content):
    (stranger.private / "keys" / name).write_bytes(content)
    with pytest.raises(DataError):
        stranger.keys()


def test_swapped_key_files_are_noticed(stranger):
    keys = stranger.private / "keys"
    (keys / "signing.key").write_bytes((keys / "tls.key").read_bytes())
    with pytest.raises(DataError, match="another type"):
        stranger.keys()


def test_a_certificate_by_itself_is_not_an_authority(consortium):
    """A site's certificate cannot vouch for another certificate."""
    site = consortium.study.site("north")
    key = consortium.sites["north"].keys().tls
    other = enrolment_keys.generate("mallory")
    forged = authority.issue(site.certificate, key, other.tls.public_key(), "mallory", hosts=())
    root = consortium.study.file.coordinator.authority
    with pytest.raises(PrivacyRefusal, match="not from the study's authority"):
        authority.check_issued(forged, root, "mallory", where="x")


def test_a_request_says_nothing_but_its_fields(stranger):
    envelope = json.loads(stranger.request_path.read_bytes())
    body = json.loads(envelope["body"])
    assert set(body) == {"kind", *EnrolmentRequest.__struct_fields__}
