"""Every setting either decides whether finished files are kept, or is known to change no byte of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from deid_samples import KEY, key_file

from meninx.deid import program, stage
from meninx.deid.config import DeidConfig
from meninx.deid.fingerprint import Fingerprint
from meninx.deid.review import layouts

TABLES = {
    "overrides": ('SliceThickness = "X"\n', 'SliceThickness = "Z"\n'),
    "lookup": ("old_patient_id,new_patient_id\n1,STUDY-1\n", "old_patient_id,new_patient_id\n1,STUDY-2\n"),
    "decisions": (",".join(layouts.COLUMNS) + "\n", ",".join(layouts.COLUMNS) + "\n\n"),
}
OTHER_VALUES = {
    "site": "south",
    "profile": "basic",
    "options": ("retain-device",),
    "missing_lookup": "quarantine",
    "rename": False,
    "max_age": 80,
    "pixels": "keep",
    "search_all": True,
    "keep_measurements": True,
    "defacing": "head",
}
CHANGE_NO_BYTE = {
    "issuers", "issuer_domains", "missing_issuer", "registry",  # a change of pseudonyms is refused
    "lookup_out", "escrow", "escrow_only",  # private tables
    "workers", "scheduler", "scheduler_ca", "scheduler_cert", "scheduler_key",
    "dry_run", "resume", "overwrite",
}  # fmt: skip
NEEDS = {"missing_lookup": "lookup"}  # it has no effect without


def fingerprint(tmp: Path, **settings: object) -> Fingerprint:
    config = DeidConfig(**{"key": key_file(tmp), "site": "north", **settings})
    return stage._engine(config, tmp, tmp / "out", None)[2]


def table(tmp: Path, name: str, content: int = 0) -> Path:
    place = tmp / f"{name}-{content}"
    place.write_text(TABLES[name][content], encoding="utf-8")
    return place


def test_no_setting_is_forgotten():
    known = {"key", *TABLES, *OTHER_VALUES, *CHANGE_NO_BYTE}
    assert known == {one.name for one in fields(DeidConfig)}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_files_of_another_value_are_not_kept(tmp_path, name):
    needs = {NEEDS[name]: table(tmp_path, NEEDS[name])} if name in NEEDS else {}
    usual, other = (
        fingerprint(tmp_path, **needs),
        fingerprint(tmp_path, **needs, **{name: OTHER_VALUES[name]}),
    )
    assert not usual.has_settings_of(str(other))
    assert fingerprint(tmp_path, **needs) == usual


@pytest.mark.parametrize("name", TABLES)
def test_files_of_another_table_are_not_kept(tmp_path, name):
    made = [
        fingerprint(tmp_path),
        *(fingerprint(tmp_path, **{name: table(tmp_path, name, n)}) for n in (0, 1)),
    ]
    assert len({one.settings for one in made}) == 3
    moved = table(tmp_path, name).rename(tmp_path / "moved")
    assert fingerprint(tmp_path, **{name: moved}) == made[1]


def test_files_of_another_key_are_not_kept(tmp_path):
    usual = fingerprint(tmp_path)
    (tmp_path / "second").mkdir()
    other = fingerprint(tmp_path, key=key_file(tmp_path / "second", KEY[::-1]), registry=tmp_path / "other")
    assert other.settings != usual.settings


@pytest.mark.parametrize("name", ["workers", "lookup_out", "escrow", "resume", "overwrite"])
def test_files_are_kept_whatever_changes_none_of_their_bytes(tmp_path, name):
    other = {"workers": 2, "lookup_out": True, "escrow": "key", "resume": False, "overwrite": True}[name]
    assert fingerprint(tmp_path, **{name: other}) == fingerprint(tmp_path)


def test_another_program_renews_and_other_settings_do_not(tmp_path, monkeypatch):
    before = fingerprint(tmp_path)
    assert Fingerprint.read(str(before)) == before
    there = program.versions()
    monkeypatch.setattr(program, "versions", lambda: {**there, "meninx's files": "another"})
    after, other = fingerprint(tmp_path), fingerprint(tmp_path, search_all=True)
    assert after.renews(str(before))
    assert before.renews(str(after))
    assert not after.renews(str(after))
    assert not other.renews(str(before))


@pytest.mark.parametrize(
    "text", ["", "ab" * 32, f"format-5-{'ab' * 32}", f"format-6-{'ab' * 32}-{'ab' * 31}x"]
)
def test_a_line_of_another_format_is_none(tmp_path, text):
    assert Fingerprint.read(text) is None
    assert not fingerprint(tmp_path).renews(text)
