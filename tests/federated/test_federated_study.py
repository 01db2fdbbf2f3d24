"""The study file: revised by its coordinator alone, and refused by everybody when it is not whole."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest

from meninx.core import signed_file
from meninx.core.errors import ConfigError, DataError, MeninxError, PrivacyRefusal, UsageError
from meninx.federated import authority, code_hash, enrolment_keys, study
from meninx.federated.code_hash import CodeVersion
from meninx.federated.config import StudyConfig
from meninx.federated.study import EnrolledSite, StudyFile, StudyFolder


def config(**changes: object) -> StudyConfig:
    facts = {"data_task": "multilabel", "labels": ("effusion",), "size": (32, 32)}
    return StudyConfig.of(**facts | {"rounds": 3, "train": {"model": "resnet9-small"}} | changes)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return study.create(tmp_path / "chest", config())


def enrolled(folder: StudyFolder, name: str) -> EnrolledSite:
    keys = enrolment_keys.generate(name).public
    return EnrolledSite(name=name, signing=keys.signing, node=keys.node, certificate=folder.issue(keys))


def forged(folder: StudyFolder, **changes: object) -> bytes:
    """A study file with other content, signed by the real coordinator."""
    file = msgspec.structs.replace(folder.published().file, **changes)
    return signed_file.seal(file, folder.keys().signing)


def test_a_new_study_is_called_like_its_folder_and_keeps_its_keys_to_itself(folder):
    found = study.open_folder(folder.root).study()
    assert (found.name, found.file.revision, found.site_names) == ("chest", 0, ())
    assert len(found.in_words().split()) == len(found.file.coordinator.in_words().split()) == 12
    private = [path for path in folder.private.rglob("*") if path.suffix in (".key", ".jsonl", ".head")]
    assert len(private) == 6
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    assert stat.S_IMODE(folder.private.stat().st_mode) == 0o700


def test_no_private_key_is_in_what_is_sent(folder):
    folder.publish([enrolled(folder, "north")])
    sent = folder.study_path.read_text() + folder.server_certificate_path.read_text()
    assert "PRIVATE" not in sent


def test_every_change_is_a_new_revision_with_another_digest(folder):
    first = folder.study()
    second = folder.publish([enrolled(folder, "north")])
    assert (second.file.revision, second.file.id) == (1, first.file.id)
    assert second.digest != first.digest
    assert folder.publish(second.file.sites).digest == second.digest
    assert [entry.event for entry in folder.log().verify()] == ["log began", "study made", "study published"]


def test_settings_that_were_edited_must_be_published_first(folder):
    text = (folder.root / "study.toml").read_text()
    (folder.root / "study.toml").write_text(
        text.replace("rounds = 3", "rounds = 4").replace("epochs = 3", "epochs = 4")
    )
    with pytest.raises(UsageError, match="changed since"):
        folder.study()
    assert folder.publish(()).config.study.rounds == 4


def test_the_length_of_a_study_is_edited_in_one_place(folder):
    toml = folder.root / "study.toml"
    before = folder.study().config.study.rounds
    assert folder.config().resolved() == folder.study().config.resolved()
    toml.write_text(toml.read_text().replace(f"rounds = {before}\n", f"rounds = {before + 3}\n"))
    folder.publish(())
    training = folder.study().config.training
    assert training.sampling.epochs == (before + 3) * folder.study().config.study.local_epochs


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, folder):
    with pytest.raises(UsageError, match="not empty"):
        study.create(folder.root, config())
    with pytest.raises(UsageError, match="no such folder"):
        study.open_folder(tmp_path / "other")
    with pytest.raises(UsageError, match="lower-case"):
        study.create(tmp_path / "My Study", config())
    with pytest.raises(ConfigError, match="--like"):
        study.create(tmp_path / "vague", StudyConfig())
    assert not (tmp_path / "vague").exists()


def test_layout_does_not_count_but_every_byte_of_the_statement_does(folder):
    content = folder.study_path.read_bytes()
    envelope = json.loads(content)
    assert study.study_of(json.dumps(envelope).encode(), where="s").digest == folder.study().digest
    envelope["body"] = envelope["body"].replace('"revision":0', '"revision":1')
    with pytest.raises(PrivacyRefusal, match="signature"):
        study.study_of(json.dumps(envelope).encode(), where="s")


def test_a_statement_of_one_kind_never_passes_for_another(folder):
    envelope = json.loads(folder.study_path.read_bytes())
    envelope["kind"] = "approval"
    with pytest.raises(DataError, match="no study"):
        study.study_of(json.dumps(envelope).encode(), where="s")


def test_a_file_signed_by_another_coordinator_is_not_this_study(tmp_path, folder):
    other = study.create(tmp_path / "other" / "chest", config())
    folder.study_path.write_bytes(other.study_path.read_bytes())
    with pytest.raises(PrivacyRefusal, match="signature"):
        folder.study()


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../etc"},
        {"revision": -1},
        {"config": "x = ["},
        {"config": ""},
        {"config": '[study]\nname = "../x"\n'},
        {"config": "[nothing]\n"},
        {"config": "#" * (1 << 19)},
        {"code": CodeVersion("1\x1b[31m", "0" * 64)},
        {"code": CodeVersion("1", "zz")},
        {"revoked": ("x",)},
        {"made": "\u202e"},
    ],
)
def test_a_study_file_with_odd_content_is_refused_although_it_is_signed(folder, changes):
    with pytest.raises(MeninxError) as caught:
        study.study_of(forged(folder, **changes), where="s")
    assert caught.value.exit_code in (2, 3, 4)
    assert str(caught.value).isprintable()


def test_sites_with_shared_foreign_or_revoked_keys_are_refused(tmp_path, folder):
    north, east = enrolled(folder, "north"), enrolled(folder, "east")
    other = study.create(tmp_path / "other", config())
    shared = msgspec.structs.replace(east, signing=north.signing)
    foreign = msgspec.structs.replace(east, certificate=enrolled(other, "east").certificate)
    renamed = msgspec.structs.replace(east, name="eastern")
    odd = msgspec.structs.replace(east, node=b"no key")
    with pytest.raises(DataError, match="key of somebody else"):
        study.study_of(forged(folder, sites=(shared, north)), where="s")
    for sites in ((east, shared), (north, east), (foreign,), (renamed,), (odd,), (north, north)):
        with pytest.raises(MeninxError):
            study.study_of(forged(folder, sites=sites), where="s")
    with pytest.raises(DataError, match="revoked"):
        study.study_of(forged(folder, sites=(east,), revoked=(east.keys.fingerprint(),)), where="s")
    assert study.study_of(forged(folder, sites=(east, north)), where="s").site_names == ("east", "north")


def test_only_invited_sites_take_part(tmp_path):
    folder = study.create(tmp_path / "chest", config(sites=("north", "south", "west")))
    folder.publish([enrolled(folder, "north")])
    with pytest.raises(DataError, match="not invited"):
        folder.publish([enrolled(folder, "east")])


def test_an_ended_certificate_is_refused_by_name_and_can_be_renewed(folder, monkeypatch):
    monkeypatch.setattr(authority, "CERTIFICATE_DAYS", 0)
    ended = enrolled(folder, "north")
    assert authority.days_left(ended.certificate) < 0
    found = folder.publish([ended])
    with pytest.raises(PrivacyRefusal, match="certificate of north is not valid now"):
        study.check_dates(found)
    monkeypatch.setattr(authority, "CERTIFICATE_DAYS", 30)
    renewed = msgspec.structs.replace(ended, certificate=folder.issue(ended.keys))
    study.check_dates(folder.publish([renewed]))


def test_the_hash_covers_names_and_content_of_the_code(tmp_path):
    def digest(**content: str) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in content.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        return code_hash.source_digest(root)

    base = {"a.py": "x = 1\n", "b__c.py": "y = 2\n"}
    first = digest(**base)
    assert first == digest(**base) == digest(**base | {"a.py": "x = 1\r\n", "b__d.pyc": "z"})
    assert len({first, digest(**base | {"a.py": "x = 2\n"}), digest(**{"a.py": "x = 1\n"})}) == 3
    assert first != digest(**{"a.py": "x = 1\n", "b__e.py": "y = 2\n"})
    with pytest.raises(DataError):
        code_hash.source_digest(tmp_path / "nothing")


def test_other_code_is_named_in_a_sentence():
    own = code_hash.installed()
    assert code_hash.difference(own) == ""
    assert "source differs" in code_hash.difference(CodeVersion(own.version, "0" * 64))
    assert "install the same version" in code_hash.difference(CodeVersion("9.9", "0" * 64))


def test_the_settings_in_the_file_are_whole(folder):
    assert isinstance(folder.published().file, StudyFile)
    assert "physical_batch" in folder.published().file.config
