"""What anybody may do to a clean archive, and what a check of its papers says."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import KEY, clean, image, key_file, leaks, save, tree

from meninx.core import artifacts, integrity, workspace
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import UsageError
from meninx.deid.identity.keys import SiteKey
from meninx.deid.papers import archive_signature, audit_chain, statement
from meninx.verify.stage import run

PAPERS = ("audit.jsonl", "deid.json", "checksums.sha256", "statement.html")
SIGNER = archive_signature.fingerprint_of(archive_signature.signing_key(SiteKey(KEY, "north")))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    for number in (1, 2, 3):
        save(image(number), folder / "in" / f"a{number}")
    (folder / "in" / "note").write_text("no image")
    clean(folder)
    return folder / "out"


@pytest.fixture
def archive(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "clean"))


def faults(folder: Path, signer: str = "") -> dict[str, str]:
    return {check.what: check.why for check in run(folder, signer=signer).checks if check.state == "not ok"}


def signed_again(folder: Path, secret: bytes = bytes(range(100, 160))) -> None:
    """Do what somebody does who owns every public file and any key but the site's."""
    key = archive_signature.signing_key(SiteKey(secret, "north"))
    listed = {name: integrity.files.digest(folder / name) for name in integrity.read(folder)}
    record = replace(
        artifacts.read(folder, DeidRecord),
        checksums=integrity.write(folder, listed),
        audit_lines=audit_chain.check(folder / "audit.jsonl").lines,
        audit_head=audit_chain.check(folder / "audit.jsonl").head,
        signer=archive_signature.fingerprint_of(key),
    )
    artifacts.write(folder, record)
    statement.write(folder, record)
    archive_signature.write(folder, key)


def test_an_archive_as_it_was_made_passes_with_and_without_its_signer(archive):
    assert run(archive).ok
    assert run(archive, signer=SIGNER).ok
    assert f"key {SIGNER}" in run(archive).in_full()
    assert "give --signer FINGERPRINT" in run(archive).in_full()
    assert not leaks(archive)


def test_it_passes_without_the_private_room_and_with_a_destroyed_key(archive):
    shutil.rmtree(archive / workspace.PRIVATE)
    assert run(archive, signer=SIGNER).ok


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_edited_byte_of_a_paper_is_found(archive, data):
    path = archive / data.draw(st.sampled_from(PAPERS))
    before = path.read_bytes()
    content = bytearray(before)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        assert not run(archive, signer=SIGNER).ok
    finally:
        path.write_bytes(before)


def test_edited_lines_are_named_even_where_every_digest_was_made_again(archive):
    path = archive / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for changed, why in (
        ([lines[0].replace(b'"boxes_redacted": 0', b'"boxes_redacted": 9'), *lines[1:]], "line 2 does not"),
        ([lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
        (lines[:-1], "3 lines, but deid.json says 4"),
    ):
        path.write_bytes(b"".join(changed))
        record = artifacts.read(archive, DeidRecord)
        listed = integrity.read(archive) | {"audit.jsonl": integrity.files.digest(path)}
        artifacts.write(archive, replace(record, checksums=integrity.write(archive, listed)))
        found = faults(archive)
        assert found["chain of the audit log"].startswith(why)
        assert "checksums.sha256 is not the file that was signed" in found["signature"]


def test_what_another_key_signed_is_refused_by_the_fingerprint_alone(archive):
    lines = (archive / "audit.jsonl").read_bytes().splitlines(keepends=True)
    chain = audit_chain.AuditChain()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        del row["previous"]
        row["reason"] = row["reason"] and "video"
    (archive / "audit.jsonl").write_bytes(b"".join(map(chain.line, rows)))
    record = artifacts.read(archive, DeidRecord)
    artifacts.write(archive, replace(record, quarantined={"video": sum(record.quarantined.values())}))
    signed_again(archive)
    assert run(archive).ok  # nobody can see it without knowing the site's key
    assert faults(archive, SIGNER) == {"signer": "another key signed it"}
    assert run(archive, signer=SIGNER).exit_code == 4


def test_an_image_that_the_log_does_not_know_is_found_whoever_signed_it(archive):
    shutil.copy(next((archive / "images").rglob("*.dcm")), archive / "images" / "more.dcm")
    listed = integrity.read(archive)
    integrity.write(archive, {**listed, "images/more.dcm": next(iter(listed.values()))})
    signed_again(archive)
    assert "name other images: images/more.dcm" in faults(archive)["chain of the audit log"]


def test_a_missing_signature_is_refused_where_one_is_due(archive):
    (archive / "signature.json").unlink()
    assert faults(archive)["signature"] == "signature.json is missing"
    record = artifacts.read(archive, DeidRecord)
    artifacts.write(archive, replace(record, signer="", audit_head=""))  # posing as an older archive
    assert "signature" not in faults(archive)
    assert faults(archive, SIGNER)["signature"] == "signature.json is missing"


def test_a_statement_of_other_words_is_refused(archive):
    page = archive / "statement.html"
    page.write_bytes(page.read_bytes().replace(b"What remains", b"Nothing remains"))
    assert {"signature", "statement"} <= set(faults(archive))
    page.unlink()
    assert "statement" in faults(archive)


def test_a_signature_of_another_kind_is_refused(archive):
    path = archive / "signature.json"
    path.write_bytes(path.read_bytes().replace(b'"clean archive"', b'"egress dossier"'))
    assert "signature" in faults(archive)


def test_a_signer_belongs_to_an_archive_or_a_dossier(archive):
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        run(archive, signer="abc")
    with pytest.raises(UsageError, match="belongs to a dossier, a clean archive or a medium"):
        run(archive.parent, signer=SIGNER)
    with pytest.raises(UsageError, match="a decision belongs"):
        run(archive, decision=archive / "deid.json")


def test_the_papers_do_not_depend_on_workers_and_repetition(made, tmp_path):
    shutil.copytree(made.parent / "in", tmp_path / "in")
    clean(tmp_path, workers=2)
    public = {name: data for name, data in tree(made).items() if not name.startswith("private/")}
    for _ in range(2):
        again = tree(tmp_path / "out")
        assert {name: data for name, data in again.items() if not name.startswith("private/")} == public
        clean(tmp_path, key=key_file(tmp_path))


@pytest.mark.parametrize("name", ["report.html", "prepare.json", "obfuscation.json", "release_audit.json"])
def test_nothing_hides_behind_the_name_of_a_paper_of_other_folders(archive, name):
    (archive / name).mkdir()
    (archive / name / "original.dcm").write_bytes(b"Quillfeather")
    assert "files against checksums.sha256" in faults(archive, SIGNER)
    shutil.rmtree(archive / name)
    (archive / name).write_text("Quillfeather")
    assert "files against checksums.sha256" in faults(archive, SIGNER)


def test_an_empty_folder_is_seen(archive):
    assert faults(archive, SIGNER) == {}
    (archive / "images" / "Quillfeather_Marigold").mkdir()
    assert set(faults(archive, SIGNER)) == {"empty folders"}


def test_numbers_that_do_not_follow_from_the_log_are_found_whoever_signed_them(archive):
    record = artifacts.read(archive, DeidRecord)
    for change in (
        {"files_read": record.files_read + 3},
        {"files_written": record.files_written + 3},
        {"quarantined": {"video": 1}},
        {"patients": record.files_written + 1},
        {"burned_in_unknown": 99},
    ):
        artifacts.write(archive, replace(record, **change))
        signed_again(archive)
        assert next(iter(change)) in faults(archive)["chain of the audit log"]


@pytest.mark.parametrize("private", [True, False])
def test_an_archive_without_its_summary_is_refused_with_and_without_a_signer(archive, private):
    (archive / "deid.json").unlink()
    if not private:
        shutil.rmtree(archive / workspace.PRIVATE)
    path = next((archive / "images").rglob("*.dcm"))
    path.write_bytes(path.read_bytes() + b"\0\0")
    integrity.write(
        archive, {name: integrity.files.digest(archive / name) for name in integrity.read(archive)}
    )
    assert faults(archive)["summary deid.json"] == "it is missing"
    assert run(archive, signer=SIGNER).exit_code == 4
    (archive / "signature.json").unlink()
    assert not run(archive).ok
