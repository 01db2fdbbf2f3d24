"""One output folder holds one source: it may grow, move and be continued, and is never mixed with another."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import KEY, ROOT, clean, image, images, key_file, save, tree

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import Interrupted, PrivacyRefusal, UsageError
from meninx.core.progress import Silent
from meninx.deid import Deidentifier, Quarantined, stage
from meninx.deid.config import DeidConfig
from meninx.dicomfile import zip_archive


def deliver(tmp: Path, name: str, *numbers: int, **changes) -> Path:
    for number in numbers:
        save(image(number, study=number, **changes), tmp / name / f"IM{number}")
    return tmp / name


def interrupt(monkeypatch, after: int) -> None:
    """Stop the next run after so many files, as Ctrl-C does."""
    published, left = stage.publish_entry, iter(range(after))

    def counted(*values):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return published(*values)

    monkeypatch.setattr(stage, "publish_entry", counted)


@pytest.mark.parametrize("names", ["same", "others"])
def test_a_second_delivery_is_never_mixed_with_the_first(tmp_path, names):
    deliver(tmp_path, "in", 1, 2)
    clean(tmp_path)
    before = tree(tmp_path / "out")
    for number in (1, 2):
        name = f"IM{number}" if names == "same" else f"other{number}"
        save(image(number, study=10 + number, PatientID="0000999"), tmp_path / "second" / name)
    with pytest.raises(UsageError, match=r"2 files.*another delivery needs its own output folder.*same key"):
        clean(tmp_path, source="second")
    assert tree(tmp_path / "out") == before
    assert clean(tmp_path).files_resumed == 2
    replaced = clean(tmp_path, source="second", overwrite=True)
    assert (replaced.files_read, replaced.files_written, replaced.files_resumed) == (2, 2, 0)
    assert artifacts.read(tmp_path / "out", DeidRecord).files_read == 2
    assert len(images(tmp_path / "out")) == 2


def test_a_source_may_grow_and_move(tmp_path):
    deliver(tmp_path, "in", 1, 2)
    (tmp_path / "in" / "IM2.txt").write_text("no image")
    clean(tmp_path)
    shutil.move(tmp_path / "in", tmp_path / "moved")
    deliver(tmp_path, "moved", 3)
    (tmp_path / "moved" / "IM2.txt").unlink()
    grown = clean(tmp_path, source="moved")
    assert (grown.files_read, grown.files_written, grown.files_resumed, dict(grown.quarantined)) == (
        3,
        3,
        2,
        {},
    )
    clean(tmp_path, "fresh", "moved")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


SOURCES = st.dictionaries(st.sampled_from("abc"), st.integers(1, 4), min_size=1).filter(
    lambda files: len(set(files.values())) == len(files)  # which of two copies is written, order decides
)


@given(SOURCES, SOURCES)
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_a_second_source_is_refused_or_gives_what_it_gives_alone(first, second):
    """Path -> instance of two sources, one after the other in one output folder."""
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        for folder, files in (("in", first), ("second", second)):
            for path, number in files.items():
                save(image(number, study=number), tmp / folder / path)
        clean(tmp)
        before = tree(tmp / "out")
        if first.items() <= second.items():
            assert clean(tmp, source="second").files_resumed == len(first)
            clean(tmp, "alone", "second")
            assert tree(tmp / "out") == tree(tmp / "alone")
        else:
            with pytest.raises(UsageError, match=f"{len(first.items() - second.items())} file"):
                clean(tmp, source="second")
            assert tree(tmp / "out") == before


def test_a_corrected_file_of_the_same_instance_is_made_again(tmp_path):
    deliver(tmp_path, "in", 1, 2)
    clean(tmp_path)
    deliver(tmp_path, "in", 1, SliceThickness="5")
    assert clean(tmp_path).files_resumed == 1
    clean(tmp_path, "fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("change", ["gone", "other", "broken", "link"])
def test_one_written_file_that_is_no_longer_there_stops_the_run(tmp_path, change):
    deliver(tmp_path, "in", 1, 2)
    clean(tmp_path)
    before = tree(tmp_path / "out")
    (tmp_path / "in" / "IM2").unlink()
    if change == "other":
        save(image(2, study=77), tmp_path / "in" / "IM2")
    elif change == "broken":
        (tmp_path / "in" / "IM2").write_bytes(b"cut")
    elif change == "link":
        (tmp_path / "in" / "IM2").symlink_to(tmp_path / "site.key")
    with pytest.raises(UsageError, match=r"1 file.*--overwrite") as told:
        clean(tmp_path)
    assert "IM2" not in str(told.value)
    assert tree(tmp_path / "out") == before
    assert clean(tmp_path, overwrite=True).files_written == (2 if change == "other" else 1)


def test_members_of_archives_are_recognised_again(tmp_path):
    source = deliver(tmp_path, "plain", 1, 2)
    (tmp_path / "in").mkdir()
    for name, kept in (("whole", ("IM1", "IM2")), ("less", ("IM1",))):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for member in kept:
                packed.write(source / member, member)
    shutil.copy(tmp_path / "whole.zip", tmp_path / "in" / "a.zip")
    clean(tmp_path)
    assert clean(tmp_path).files_resumed == 2
    shutil.copy(tmp_path / "less.zip", tmp_path / "in" / "a.zip")
    with pytest.raises(UsageError, match="1 file "):
        clean(tmp_path)


def test_an_interrupted_run_goes_on_with_its_own_source_only(tmp_path, monkeypatch):
    deliver(tmp_path, "in", 1, 2, 3)
    deliver(tmp_path, "second", 4, 5)
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(BaseException, match="stopped"):
            clean(tmp_path)
    with pytest.raises(UsageError, match="2 files"):
        clean(tmp_path, source="second")
    assert clean(tmp_path).files_resumed == 2
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(BaseException, match="stopped"):
            clean(tmp_path, source="second", overwrite=True)
    replaced = clean(tmp_path, overwrite=True)  # and back to the first source
    assert (replaced.files_read, replaced.files_resumed) == (3, 0)
    clean(tmp_path, "fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("settings", [{}, {"dry_run": True}, {"defacing": "head"}])
def test_a_stop_is_told_at_once(tmp_path, settings):
    lines: list[str] = []

    class Stopping(Silent):
        def advance(self, *words: object, **more: object) -> None:
            if not lines:
                signal.raise_signal(signal.SIGINT)
                assert len(lines) == 1

        def note(self, message: str) -> None:
            lines.append(message)

    deliver(tmp_path, "in", 1, 2)
    config = DeidConfig(key=key_file(tmp_path), site="north", workers=1, **settings)
    with pytest.raises(Interrupted):
        stage.run(config, tmp_path / "in", tmp_path / "out", progress=Stopping())
    assert lines == ["stopping: what is in work is finished, and nothing further begins"]


def test_the_same_command_with_new_key_continues_its_own_run(tmp_path, invoke, monkeypatch):
    deliver(tmp_path, "in", 1, 2)
    words = ("deid", tmp_path / "in", tmp_path / "out", "--key", tmp_path / "k", "--new-key", "--site", "n")
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        assert invoke(*words, "--workers", "1")[0] == 130
    made = (tmp_path / "k").read_bytes()
    assert invoke(*words)[0] == 0
    assert invoke(*words)[0] == 0
    assert (tmp_path / "k").read_bytes() == made
    for dry in ((), ("--dry-run",)):
        code, _, told = invoke(*words[:2], tmp_path / "second", *words[3:], *dry)
        assert code == 4
        assert "leave out --new-key" in told
        assert not (tmp_path / "second").exists()


def test_decisions_that_a_run_leaves_out_are_told(tmp_path, invoke):
    deliver(tmp_path, "in", 1)
    words = ("deid", tmp_path / "in", tmp_path / "out", "--key", key_file(tmp_path), "--site", "n")
    assert "holds decisions" not in invoke(*words)[2]
    (tmp_path / "out" / "private" / "decisions.csv").write_text("")
    code, _, told = invoke(*words, "--overwrite")
    assert code == 0
    assert "private/decisions.csv holds decisions of reviewers that this run does not apply" in told


# --- a sealed folder ---


def sealed(tmp: Path) -> Path:
    deliver(tmp, "in", 1, 2)
    deliver(tmp, "in", 3, PatientSex="M")
    result = clean(tmp, escrow="key", escrow_only=True)
    assert "1 patient; two people may share" in result.summary()
    assert "look at" not in result.summary()  # the list was removed
    assert "contradictions.csv" in clean(tmp, "open").summary()
    return tmp / "out"


def test_a_sealed_folder_stays_sealed(tmp_path):
    out = sealed(tmp_path)
    before, inside = tree(out), {path.name for path in (out / "private").iterdir()}
    with pytest.raises(PrivacyRefusal, match=r"--escrow key --escrow-only"):
        clean(tmp_path)
    with pytest.raises(PrivacyRefusal, match=r"--escrow-only"):
        clean(tmp_path, escrow="key")
    with pytest.raises(PrivacyRefusal, match=r"--escrow-only"):
        clean(tmp_path, overwrite=True)
    assert tree(out) == before
    clean(tmp_path, escrow="key", escrow_only=True)
    assert {path.name for path in (out / "private").iterdir()} == inside
    assert {name: data for name, data in tree(out).items() if "private" not in name} == {
        name: data for name, data in before.items() if "private" not in name
    }


def test_a_folder_sealed_for_a_broker_is_not_opened_for_the_keys_holder(tmp_path):
    from meninx.deid.escrow.broker_key import make_pair

    make_pair(tmp_path / "broker.key")
    deliver(tmp_path, "in", 1)
    clean(tmp_path, escrow=str(tmp_path / "broker.key.pub"), escrow_only=True)
    before = tree(tmp_path / "out")
    with pytest.raises(PrivacyRefusal, match="sealed for somebody else"):
        clean(tmp_path, escrow="key", escrow_only=True)
    assert tree(tmp_path / "out") == before
    clean(tmp_path, escrow=str(tmp_path / "broker.key.pub"), escrow_only=True)


def test_another_source_does_not_replace_a_sealed_result(tmp_path):
    out = sealed(tmp_path)
    before = tree(out)
    deliver(tmp_path, "second", 1, 2, 4)
    with pytest.raises(UsageError, match=r"1 file.*--overwrite"):
        clean(tmp_path, source="second", escrow="key", escrow_only=True)
    assert tree(out) == before
    deliver(tmp_path, "in", 4)
    assert clean(tmp_path, escrow="key", escrow_only=True).files_written == 4


# --- a clean archive inside the source ---


def test_the_old_result_inside_the_archive_is_kept_out(tmp_path):
    deliver(tmp_path, "in", 1, 2)
    clean(tmp_path, "old")
    shutil.move(tmp_path / "old", tmp_path / "in" / "old")
    shutil.copytree(tmp_path / "in" / "old" / "images", tmp_path / "in" / "copied")
    with zipfile.ZipFile(tmp_path / "in" / "delivery.zip", "w") as packed:
        packed.write(images(tmp_path / "in" / "old")[0], "IM")
    result = clean(tmp_path)
    assert (result.patients, result.files_written) == (1, 2)
    assert result.quarantined["already-deidentified"] == 2 + 2 + 1
    again = clean(tmp_path)
    assert (again.files_written, again.quarantined) == (2, result.quarantined)


def test_a_stream_refuses_its_own_clean_instance_and_counts_nothing_of_others(tmp_path):
    deliver(tmp_path, "in", 1)
    engine = Deidentifier(key=key_file(tmp_path), site="north")
    once = engine.deidentify((tmp_path / "in" / "IM1").read_bytes())
    with pytest.raises(Quarantined, match="already-deidentified"):
        engine.deidentify(once.content)
    other = Deidentifier(key=KEY[::-1], site="a trusted third party")
    assert other.deidentify(once.content).patient_id != once.patient_id


def test_files_that_another_site_cleaned_are_read_and_counted(tmp_path, invoke):
    deliver(tmp_path, "in", 1, 2)
    clean(tmp_path, "first", site="south")
    result = clean(tmp_path, source="first/images")
    assert (result.files_written, result.deidentified_before) == (2, 2)
    assert "de-identified by meninx before, under another key or site: 2 images" in result.summary()
    assert artifacts.read(tmp_path / "out", DeidRecord).deidentified_before == 2
    assert (
        "De-identified by meninx before, under another key or site: 2 images"
        in (tmp_path / "out" / "statement.html").read_text()
    )
    assert clean(tmp_path, source="first/images").deidentified_before == 2
    deliver(tmp_path, "plain", 3)
    assert clean(tmp_path, "third", "plain").deidentified_before == 0


# --- nothing outside the private folder ---


def test_members_of_archives_are_inflated_in_the_private_folder_only(tmp_path, monkeypatch):
    places = []

    def unnamed(dir=None, **options):
        places.append(dir)
        return tempfile.TemporaryFile(dir=dir, **options)

    monkeypatch.setattr(zip_archive, "_IN_MEMORY", 100)
    monkeypatch.setattr(zip_archive, "tempfile", SimpleNamespace(TemporaryFile=unnamed))
    source = deliver(tmp_path, "plain", 1, 2)
    save(image(3, SOPClassUID="1.2.840.10008.1.3.10"), source / "DICOMDIR")
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("IM1", "IM2", "DICOMDIR"):
            packed.write(source / name, name)
    result = clean(tmp_path, defacing="head")
    assert result.quarantined == {"face-geometry": 2, "dicomdir": 1}
    assert len(places) >= 6
    assert all(place.is_relative_to(tmp_path / "out" / "private") for place in places)


# --- what a dry run says, and settings without effect ---


def test_a_dry_run_says_what_would_be_written(tmp_path, invoke):
    deliver(tmp_path, "in", 1, 2)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    words = ("deid", tmp_path / "in", tmp_path / "out", "--key", key_file(tmp_path), "--dry-run")
    code, told, _ = invoke(*words, "--escrow", "key", "--escrow-only")
    assert code == 0
    assert "3 files read, 2 would be written, 1 kept out" in told
    assert "0 written" not in told
    assert "private/escrow.meninx would be written for the holder of the site key" in told
    assert "everything else that holds originals would be removed" in told
    assert "private/lookup.csv would be written" in invoke(*words, "--lookup-out")[1]
    assert "escrow" not in invoke(*words)[1]
    assert not (tmp_path / "out").exists()
    code, told, _ = invoke(*words[:-1], "--escrow", "key", "--escrow-only")
    assert "private/escrow.meninx written for the holder of the site key" in told


def foreign_files(tmp: Path) -> dict:
    (tmp / "out").mkdir()
    (tmp / "out" / "notes.txt").write_text("mine")
    return {}


def other_source(tmp: Path) -> dict:
    clean(tmp)
    save(image(9, study=9, PatientID="0000999"), tmp / "second" / "IM9")
    return {"source": "second"}


def interrupted_source(tmp: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(Interrupted):
            clean(tmp)
    save(image(9, study=9, PatientID="0000999"), tmp / "second" / "IM9")
    return {"source": "second"}


def other_settings(tmp: Path) -> dict:
    clean(tmp)
    return {"max_age": 80}


def sealed_result(tmp: Path) -> dict:
    clean(tmp, escrow="key", escrow_only=True)
    return {}


def complete(tmp: Path) -> dict:
    clean(tmp)
    return {"resume": False}


@pytest.mark.parametrize(
    "spoil", [foreign_files, other_source, interrupted_source, other_settings, sealed_result, complete]
)
def test_a_dry_run_refuses_what_the_run_refuses(tmp_path, spoil):
    deliver(tmp_path, "in", 1, 2)
    key_file(tmp_path)
    changes, told = spoil(tmp_path), []
    before = tree(tmp_path)
    for dry_run in (True, False):
        with pytest.raises((UsageError, PrivacyRefusal)) as caught:
            clean(tmp_path, **changes, dry_run=dry_run)
        told.append(str(caught.value))
        assert not dry_run or tree(tmp_path) == before
    assert told[0] == told[1]


def test_a_dry_run_in_a_folder_that_goes_on_or_is_replaced_changes_nothing(tmp_path):
    deliver(tmp_path, "in", 1, 2)
    clean(tmp_path)
    before = tree(tmp_path)
    assert clean(tmp_path, dry_run=True).files_read == 2
    assert clean(tmp_path, dry_run=True, overwrite=True, max_age=80).files_read == 2
    assert tree(tmp_path) == before


def test_an_option_that_the_preset_has_changes_nothing(tmp_path):
    deliver(tmp_path, "in", 1)
    clean(tmp_path)
    before = tree(tmp_path / "out")
    assert clean(tmp_path, options=("clean-descriptors",)).files_resumed == 1
    assert tree(tmp_path / "out") == before
    with pytest.raises(UsageError, match="other settings"):
        clean(tmp_path, options=("retain-device",))


def test_the_journal_holds_no_name_of_a_patient(tmp_path):
    deliver(tmp_path, "in", 1)
    clean(tmp_path)
    text = (tmp_path / "out" / "private" / "journal.jsonl").read_text()
    assert json.loads(text)["traits"]
    for word in ("Quillfeather", "Marigold", "19610502", ROOT + ".never"):
        assert word not in text
