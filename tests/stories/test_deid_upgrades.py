"""A new version of the program, or of a library, between two runs: no result holds files of both."""

from __future__ import annotations

import sys
from pathlib import Path

import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deid"))
from deid_samples import clean, image, images, key_file, save, tree

from meninx.cli import app
from meninx.core.errors import UsageError
from meninx.core.progress import Silent
from meninx.deid import program, stage, writer
from meninx.deid.config import DeidConfig
from meninx.verify import stage as verify_stage


class Notes(Silent):
    """Collects what a run tells its user."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


class Upgrades:
    """Runs of one output folder with several versions of the program."""

    def __init__(self, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp, self.patch, self.there = tmp, monkeypatch, program.versions()
        for number in (1, 2, 3):
            self.deliver(number)

    def deliver(self, number: int, **changes: str) -> None:
        save(image(number, study=number, **changes), self.tmp / "in" / f"IM{number}")

    def install(self, version: str) -> None:
        self.patch.setattr(program, "versions", lambda: {**self.there, "meninx's files": version})
        self.patch.setattr(writer, "_version", lambda: version)

    def run(self, version: str, *, stop_after: int | None = None, out: str = "out", **settings) -> Told:
        """De-identify with one version; stop as Ctrl-C does."""
        self.install(version)
        notes = Notes()
        settings = {"key": key_file(self.tmp), "site": "north", "workers": 1, **settings}
        with self.patch.context() as patch:
            if stop_after is not None:
                published, left = stage.publish_entry, iter(range(stop_after))

                def counted(*values):
                    if next(left, None) is None:
                        raise KeyboardInterrupt
                    return published(*values)

                patch.setattr(stage, "publish_entry", counted)
                with pytest.raises(BaseException, match="stopped"):
                    stage.run(DeidConfig(**settings), self.tmp / "in", self.tmp / out, progress=notes)
                return Told(notes.lines, None)
            result = stage.run(DeidConfig(**settings), self.tmp / "in", self.tmp / out, progress=notes)
        return Told(notes.lines, result)

    def made_by(self, out: str = "out") -> list[str]:
        """Return which version wrote each published file."""
        found = images(self.tmp / out)
        return [pydicom.dcmread(path).DeidentificationMethod.split("version ")[1] for path in found]

    def is_as_fresh(self, version: str) -> bool:
        fresh = f"fresh-{version}-{len(list(self.tmp.iterdir()))}"
        self.run(version, out=fresh)
        return tree(self.tmp / "out") == tree(self.tmp / fresh)

    def passes(self) -> bool:
        return verify_stage.run(self.tmp / "out").ok


class Told:
    """What one run said, and its result."""

    def __init__(self, lines: list[str], result: object) -> None:
        self.made_again = [line for line in lines if "made again" in line]
        self.result = result


@pytest.fixture
def upgrades(tmp_path, monkeypatch):
    return Upgrades(tmp_path, monkeypatch)


def test_a_finished_result_of_another_version_is_made_again_as_a_whole(upgrades):
    assert upgrades.run("1").made_again == []
    told = upgrades.run("2")
    assert told.made_again == [
        "3 finished files are made again, because the program or a library that decides their bytes has "
        "changed since"
    ]
    assert (told.result.files_written, told.result.files_resumed) == (3, 0)
    assert upgrades.made_by() == ["2"] * 3
    assert upgrades.passes()
    assert upgrades.is_as_fresh("2")
    again = upgrades.run("2")
    assert (again.made_again, again.result.files_resumed) == ([], 3)


def test_a_dry_run_says_what_a_run_would_make_again_and_refuses_what_it_would(upgrades):
    upgrades.run("1")
    before = tree(upgrades.tmp / "out")
    assert upgrades.run("2", dry_run=True).made_again[0].startswith("3 finished files would be made again")
    (upgrades.tmp / "in" / "IM2").unlink()
    with pytest.raises(UsageError, match="1 file"):
        upgrades.run("2", dry_run=True)
    assert tree(upgrades.tmp / "out") == before


def test_a_run_that_was_killed_before_an_upgrade_begins_again(upgrades):
    upgrades.run("1", stop_after=1)
    told = upgrades.run("2")
    assert told.made_again[0].startswith("1 finished file is made again, because the program")
    assert (told.result.files_written, told.result.files_resumed) == (3, 0)
    assert upgrades.is_as_fresh("2")


def test_the_earlier_result_stays_whole_until_the_new_one_is(upgrades):
    upgrades.run("1")
    before = {name: data for name, data in tree(upgrades.tmp / "out").items() if "private" not in name}
    upgrades.run("2", stop_after=2)
    after = {name: data for name, data in tree(upgrades.tmp / "out").items() if "private" not in name}
    assert after == before
    assert upgrades.passes()
    told = upgrades.run("2")
    assert told.made_again[0].startswith("1 finished file is made again")  # two are done
    assert told.result.files_resumed == 2
    assert upgrades.made_by() == ["2"] * 3
    assert upgrades.passes()
    assert upgrades.is_as_fresh("2")


def test_three_versions_leave_no_mixture(upgrades):
    upgrades.run("1")
    upgrades.run("2", stop_after=2)
    upgrades.run("3", stop_after=1)
    assert upgrades.made_by() == ["1"] * 3
    assert upgrades.run("1").result.files_resumed == 3  # back to the first one
    upgrades.run("3", stop_after=1)
    assert upgrades.run("2").result.files_resumed == 0
    assert upgrades.made_by() == ["2"] * 3
    assert upgrades.is_as_fresh("2")


def test_a_result_to_which_a_killed_run_added_files_is_not_lost(upgrades):
    upgrades.run("1")
    whole = [path.name for path in images(upgrades.tmp / "out")]
    upgrades.deliver(4)
    upgrades.run("1", stop_after=0)
    assert images(upgrades.tmp / "out") == []
    assert not upgrades.passes()
    taken = upgrades.tmp / "in" / "IM1"
    content = taken.read_bytes()
    taken.unlink()
    with pytest.raises(UsageError, match="1 file"):
        upgrades.run("2")
    assert [path.name for path in images(upgrades.tmp / "out")] == whole
    taken.write_bytes(content)
    assert upgrades.run("2").result.files_written == 4
    assert upgrades.made_by() == ["2"] * 4
    assert upgrades.is_as_fresh("2")


def test_another_source_and_other_settings_are_refused_across_an_upgrade(upgrades):
    upgrades.run("1")
    before = tree(upgrades.tmp / "out")
    with pytest.raises(UsageError, match="other settings"):
        upgrades.run("2", max_age=80)
    (upgrades.tmp / "in" / "IM2").unlink()
    with pytest.raises(UsageError, match="1 file"):
        upgrades.run("2")
    after = tree(upgrades.tmp / "out")
    assert {name for name in after if "private" not in name} == {
        name for name in before if "private" not in name
    }
    assert upgrades.passes()
    assert upgrades.run("2", overwrite=True).made_again == []


def test_a_sealed_result_is_made_again_and_stays_sealed(upgrades):
    sealed = {"escrow": "key", "escrow_only": True}
    upgrades.run("1", **sealed)
    assert upgrades.run("2", **sealed).made_again[0].startswith("3 finished files")
    assert upgrades.made_by() == ["2"] * 3
    upgrades.run("1", out="kept", rename=False, **sealed)
    with pytest.raises(UsageError, match=r"sealed result.*another version.*--overwrite"):
        upgrades.run("2", out="kept", rename=False, **sealed)
    assert upgrades.made_by("kept") == ["1"] * 3
    upgrades.run("2", out="kept", rename=False, overwrite=True, **sealed)
    assert upgrades.made_by("kept") == ["2"] * 3


def test_the_same_command_goes_on_after_an_upgrade_and_says_so(upgrades, capsys):
    words = ["deid", "in", "out", "--key", "k", "--new-key", "--site", "north", "--workers", "1"]
    words = [str(upgrades.tmp / word) if word in ("in", "out", "k") else word for word in words]
    upgrades.install("1")
    assert app.run(words) == 0
    upgrades.install("2")
    capsys.readouterr()
    assert app.run(words) == 0
    told = "".join(capsys.readouterr())
    assert "3 finished files are made again, because the program or a library" in told
    assert upgrades.made_by() == ["2"] * 3


def test_what_is_read_again_is_the_source_and_not_the_earlier_result(upgrades):
    upgrades.run("1")
    upgrades.deliver(2, SliceThickness="7")
    (upgrades.tmp / "in" / "notes.txt").write_text("no image")
    upgrades.run("2")
    assert upgrades.is_as_fresh("2")
    assert clean(upgrades.tmp).files_resumed == 4
