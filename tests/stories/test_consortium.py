"""Three hospitals and a coordinator form a consortium by commands; whoever cheats is refused by name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meninx.cli.app import run
from meninx.federated import approval, site_folder, study
from meninx.synthetic import write_dataset

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "three-hospitals.md"
SITES = ("north", "east", "west")
POLICY = "--allowed-recipes tiny --max-epsilon 8 --max-delta 1e-3"
NEW = "new chest --recipe tiny --like patients --rounds 2 --train.epsilon 8 --train.delta 1e-3"
REVIEW = "review chest/study-chest.json {0} --data patients"


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory) -> Path:
    """A folder in which three sites are enrolled by commands."""
    root = tmp_path_factory.mktemp("consortium")
    write_dataset(root / "patients", patients=40, size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert _typed(NEW) == 0
        for name in SITES:
            assert _typed(f"enrol {name} --site {name} {POLICY}") == 0
        assert _typed("enrol chest --accept " + " ".join(f"{name}/enrol-{name}.json" for name in SITES)) == 0
    return root


@pytest.fixture
def here(enrolled: Path, tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "work"
    shutil.copytree(enrolled, folder)
    monkeypatch.chdir(folder)
    return folder


def _typed(line: str) -> int:
    return run(["federate", *shlex.split(line)])


def _answers(names: tuple[str, ...] = SITES) -> str:
    return "enrol chest --accept " + " ".join(f"{name}/approval-chest-{name}.json" for name in names)


def _approve(*names: str) -> None:
    for name in names:
        assert _typed(f"{REVIEW.format(name)} --approve") == 0


def _changed(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)


def test_the_page_needs_no_more_than_fifteen_commands_from_nothing_to_training():
    text = PAGE.read_text(encoding="utf-8").partition("## 6. What to do with the model")[0]
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    typed = [line for block in blocks for line in block.splitlines() if line.startswith("meninx ")]
    assert {line.split()[2] for line in typed} >= {"new", "enrol", "review", "coordinator", "site", "run"}
    assert len(typed) <= 15


def test_from_new_to_an_approved_study(here, capsys):
    assert _typed(f"{REVIEW.format('north')} --json") == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["approved"], page["reasons"]) == (False, [])
    _approve(*SITES)
    assert "Send to the coordinator: west/approval-chest-west.json" in capsys.readouterr().out
    assert _typed(_answers() + " --json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["ready"]
    assert status["digest"] == page["digest"]
    found, roster = approval.agreed(study.open_folder(here / "chest"))
    for name in SITES:
        own = approval.approved(site_folder.open_folder(here / name), "chest")
        assert approval.check_roster(roster.to_bytes(), own).names == tuple(sorted(SITES))
    assert found.config.training.privacy.epsilon == 8.0


def test_a_hospital_with_a_stricter_policy_says_no_and_both_logs_have_the_reason(here, capsys):
    _changed(
        here / "north" / "policy.toml", lambda text: text.replace("max_epsilon = 8.0", "max_epsilon = 3.0")
    )
    _approve("east", "west")
    assert _typed(REVIEW.format("north")) == 4
    assert "This site refuses the study" in capsys.readouterr().out
    assert _typed(f"{REVIEW.format('north')} --approve") == 4
    assert "policy allows at most 3" in capsys.readouterr().err
    assert not (here / "north" / "approval-chest-north.json").exists()
    assert _typed(f"{REVIEW.format('north')} --refuse 'epsilon is above 3'") == 0
    assert _typed(_answers()) == 0
    assert "north: refuses: epsilon is above 3" in capsys.readouterr().out
    for log in (site_folder.open_folder(here / "north").log(), study.open_folder(here / "chest").log()):
        assert "epsilon is above 3" in str([entry.details for entry in log.verify()])


def test_a_study_that_is_edited_after_an_approval_is_approved_again(here, capsys):
    _approve(*SITES)
    assert _typed(_answers()) == 0
    _changed(here / "chest" / "study.toml", lambda text: text.replace("lr = 0.003", "lr = 0.004"))
    assert _typed("enrol chest") == 0
    assert "answered about another revision" in capsys.readouterr().out
    assert _typed(f"{REVIEW.format('north')} --approve") == 4
    assert "no allowed recipe" in capsys.readouterr().err
    assert _typed(_answers()) == 2
    assert "another revision" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("chest/study-chest.json", REVIEW.format("north")),
        ("north/enrol-north.json", "enrol chest --accept north/enrol-north.json"),
        ("north/approval-chest-north.json", _answers(("north",))),
    ],
)
@pytest.mark.parametrize("kind", ["edited", "cut", "garbage", "huge", "other kind"])
def test_a_file_that_was_changed_on_its_way_is_refused_in_one_sentence(here, capsys, name, line, kind):
    _approve("north")
    path = here / name
    content = path.read_bytes()
    envelope = json.loads(content)
    changed = {
        "edited": content.replace(b"2026", b"2027") if b"2026" in content else content[:-9] + content[-4:],
        "cut": content[: len(content) // 2],
        "garbage": b"\x00\xff\x1b[2J" * 100,
        "huge": b" " * (2 << 20),
        "other kind": json.dumps(envelope | {"kind": "note"}).encode(),
    }
    path.write_bytes(changed[kind])
    capsys.readouterr()
    assert _typed(line) in (3, 4)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("meninx: ")
    assert said.err.strip().isprintable()


def test_a_stranger_under_the_name_of_a_hospital_is_refused(here, capsys):
    assert _typed(f"enrol impostor --site north {POLICY}") == 0
    assert _typed("enrol chest --accept impostor/enrol-north.json") == 4
    assert "telephone the site" in capsys.readouterr().err
    assert _typed(f"{REVIEW.format('impostor')} --approve") == 4
    assert "other keys for this site than its own" in capsys.readouterr().err


def test_keys_are_rotated_and_revoked_by_commands(here, capsys):
    _approve(*SITES)
    assert _typed(_answers()) == 0
    assert _typed("enrol west --rotate") == 0
    assert _typed(f"{REVIEW.format('west')} --approve") == 4
    assert _typed("enrol chest --accept west/enrol-west.json") == 0
    shown = capsys.readouterr().out
    assert "west: rotated" in shown
    assert shown.count("answered about another revision") == 3
    _approve(*SITES)
    assert _typed(_answers()) == 0
    assert "ready: every site approved" in capsys.readouterr().out
    assert _typed("enrol chest --revoke west") == 0
    assert _typed(f"{REVIEW.format('north')} --approve") == 4
    assert "needs 3 to 32 sites" in capsys.readouterr().err
    assert _typed("enrol chest --accept west/enrol-west.json") == 4
    assert "revoked" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "enrol north --site north --rotate",
        "enrol chest --accept north/enrol-north.json --revoke west",
        "enrol chest --max-epsilon 3",
        "enrol chest --dry-run",
        "enrol patients",
        "enrol nowhere",
        f"{REVIEW.format('north')} --approve --refuse no",
        f"{REVIEW.format('north')} --expect abc",
        f"{REVIEW.format('patients')}",
        "new chest --recipe tiny --like patients",
        "new other --recipe tiny",
        "new other --like patients --labels a",
        "new other --like patients --train.pretrained /etc/passwd",
        "enrol ../x --site ../x",
    ],
)
def test_commands_that_cannot_mean_anything_are_refused(here, capsys, line):
    before = sorted(here.rglob("*"))
    assert _typed(line) == 2
    assert capsys.readouterr().out == ""
    assert sorted(path for path in here.rglob("*") if path.name != "audit.lock") == [
        path for path in before if path.name != "audit.lock"
    ]


def test_dry_runs_write_nothing(here, capsys):
    before = sorted(here.rglob("*"))
    assert _typed("new other --recipe tiny --like patients --dry-run") == 0
    assert _typed(f"enrol south --site south {POLICY} --dry-run") == 0
    assert capsys.readouterr().out.count("dry run: nothing was written") == 2
    assert sorted(here.rglob("*")) == before
