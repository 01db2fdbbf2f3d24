"""Output folders: one owner at a time, atomic replacement, and repair after a kill at any moment."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meninx.core import files, workspace
from meninx.core.errors import DataError, MeninxError, RunLocked, StorageError, UsageError

HELD = """
import sys, time
from pathlib import Path
from meninx.core import workspace
with workspace.claim(Path(sys.argv[1]), stage="prepare", fingerprint="a") as space:
    (space.staging / "half").write_text("x")
    print("held", flush=True)
    time.sleep(60)
"""


def made(out: Path, fingerprint: str, text: str, **options: bool) -> None:
    """Run a stage that writes one file, one folder and what says that it is complete."""
    with workspace.claim(out, stage="prepare", fingerprint=fingerprint, **options) as space:
        files.write_text(space.staging / "images" / "one.txt", text)
        files.write_text(space.staging / "table.csv", text)
        files.write_text(space.staging / "done.json", text)
        files.write_text(space.staging / "private" / "log.csv", text)
        space.publish(
            ["images", "table.csv", "done.json"], remove=["gone.txt", "table.csv"], secret=["log.csv"]
        )


def failed(out: Path, fingerprint: str, **options: bool) -> None:
    """Run a stage that fails half-way, and say whether it found its own earlier half."""
    with workspace.claim(out, stage="prepare", fingerprint=fingerprint, **options) as space:
        assert space.continued is (space.staging / "table.csv").exists()
        files.write_text(space.staging / "table.csv", "half")
        raise RuntimeError(str(space.continued))


def content(out: Path) -> dict[str, str]:
    """Return the public files of a folder."""
    found = (path for path in out.rglob("*") if path.is_file() and workspace.PRIVATE not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_text() for path in sorted(found)}


def whole(text: str) -> dict[str, str]:
    return dict.fromkeys(("done.json", "images/one.txt", "table.csv"), text)


def test_a_result_appears_when_it_is_complete_and_the_private_room_is_the_owners(tmp_path: Path):
    out = tmp_path / "deep" / "data"
    with workspace.claim(out, stage="prepare", fingerprint="a") as space:
        files.write_text(space.staging / "table.csv", "x")
        assert content(out) == {}
        assert not workspace.is_complete(out)
        space.publish(["table.csv"])
    assert content(out) == {"table.csv": "x"}
    assert workspace.is_complete(out)
    assert (out / "private").stat().st_mode & 0o777 == 0o700
    assert (out / "private" / "workspace.json").stat().st_mode & 0o777 == 0o600
    assert sorted(item.name for item in (out / "private").iterdir()) == ["lock", "workspace.json"]


def test_a_failed_claim_leaves_nothing(tmp_path: Path):
    out = tmp_path / "deep" / "data"
    with pytest.raises(RuntimeError), workspace.claim(out, stage="prepare", fingerprint="a"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_refused_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(workspace, "_write_marker", refuse)
    with (
        pytest.raises(StorageError),
        workspace.claim(tmp_path / "deep" / "data", stage="prepare", fingerprint="a"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_folders_are_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="other files"):
        made(tmp_path, "a", "x", overwrite=True)
    assert content(tmp_path) == {"thesis.tex": "years of work"}
    file = tmp_path / "thesis.tex"
    with pytest.raises(UsageError, match="a file"):
        made(file, "a", "x")
    private = tmp_path / "other"
    (private / "private" / "staging").mkdir(parents=True)
    (private / "private" / "staging" / "diary").write_text("x")
    with pytest.raises(UsageError, match="other files"):
        made(private, "a", "x")
    assert (private / "private" / "staging" / "diary").exists()


def test_another_stages_folder_is_refused(tmp_path: Path):
    made(tmp_path / "data", "a", "x")
    with (
        pytest.raises(UsageError, match="`prepare` wrote"),
        workspace.claim(tmp_path / "data", stage="deid", fingerprint="a", overwrite=True),
    ):
        pass


def test_a_folder_of_an_older_version_is_replaced_only_when_asked(tmp_path: Path):
    out = tmp_path / "data"
    files.write_text(out / "table.csv", "old")

    def ours(folder: Path) -> bool:
        return (folder / "table.csv").exists()

    with (
        pytest.raises(UsageError, match="complete result"),
        workspace.claim(out, stage="prepare", fingerprint="a", ours=ours),
    ):
        pass
    with workspace.claim(out, stage="prepare", fingerprint="a", ours=ours, overwrite=True) as space:
        files.write_text(space.staging / "table.csv", "new")
        assert content(out) == {"table.csv": "old"}
        space.publish(["table.csv"])
    assert content(out) == {"table.csv": "new"}


@pytest.mark.parametrize("linked", [False, True])
def test_source_and_output_lie_apart(tmp_path: Path, linked: bool):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    link = tmp_path / "link"
    if linked:
        link.symlink_to(source)
    for out, origin in (
        (source / "out", source),
        (source, source),
        (source, source / "sub"),
        (link / "out", source),
    ):
        if linked or link not in out.parents:
            with (
                pytest.raises(UsageError, match="apart"),
                workspace.claim(out, stage="s", fingerprint="a", sources=[origin]),
            ):
                pass
    assert [item.name for item in source.iterdir()] == ["sub"]
    with workspace.claim(tmp_path / "source2", stage="s", fingerprint="a", sources=[source]):
        pass


def test_two_spellings_of_one_folder_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a file system that does not tell upper from lower case, or below a bind mount."""
    source = tmp_path / "source"
    source.mkdir()
    other = tmp_path / "SOURCE"
    other.symlink_to(source)
    monkeypatch.setattr(workspace, "_resolved", lambda path: path)  # the two spellings stay two
    with pytest.raises(UsageError, match="apart"):
        workspace.apart(other / "out", [source])


def test_a_complete_result_asks_for_resume_or_overwrite(tmp_path: Path):
    out = tmp_path / "data"
    made(out, "a", "old")
    with pytest.raises(UsageError, match="complete result"):
        made(out, "a", "new")
    with pytest.raises(UsageError, match="settings"):
        made(out, "b", "new", resume=True)
    assert content(out) == whole("old")
    made(out, "a", "more", resume=True)
    assert content(out) == whole("more")
    made(out, "b", "new", overwrite=True)
    assert content(out) == whole("new")


def test_an_overwrite_that_fails_keeps_the_old_result(tmp_path: Path):
    out = tmp_path / "data"
    made(out, "a", "old")
    with pytest.raises(RuntimeError):
        failed(out, "b", overwrite=True)
    assert content(out) == whole("old")
    assert workspace.is_complete(out)


def test_an_interrupted_build_goes_on_with_the_same_fingerprint_only(tmp_path: Path):
    out = tmp_path / "data"
    for fingerprint, there in (("a", False), ("a", True), ("b", False)):
        with pytest.raises(RuntimeError, match=str(there)):
            failed(out, fingerprint)
    made(out, "c", "new")  # an unfinished result never blocks
    assert content(out) == whole("new")


def test_publishing_twice_keeps_the_fingerprint(tmp_path: Path):
    out = tmp_path / "data"
    with workspace.claim(out, stage="prepare", fingerprint="a") as space:
        files.write_text(space.staging / "one", "x")
        space.publish(["one"])
        files.write_text(space.staging / "two", "x")
        space.publish(["two"])
    marker = workspace.read_marker(out)
    assert marker is not None
    assert marker.published == "a"
    assert content(out) == {"one": "x", "two": "x"}


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of meninx handles it by name."""


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> bool:
    """Do ``action`` with a kill before its ``step``-th change of the file system.

    Return whether it was killed.
    """
    left = step

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:  # a dead process does nothing more, cleaning up included
                raise Killed
            return call(*args, **options)

        return counting

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "truncate", "open"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.usefixtures("fast")
def test_a_kill_at_any_step_loses_no_result_and_the_next_command_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for step in range(1000):
        out = tmp_path / f"data{step}"
        made(out, "a", "old")
        files.write_text(out / "gone.txt", "old")
        killed = _killed_at(step, monkeypatch, lambda out=out: made(out, "b", "new", overwrite=True))  # type: ignore[misc]
        made(out, "b", "new", overwrite=True)
        assert content(out) == whole("new"), step
        assert sorted(item.name for item in (out / "private").iterdir()) == [
            "lock",
            "log.csv",
            "workspace.json",
        ], step
        assert (out / "private" / "log.csv").read_text() == "new", step
        if not killed:
            assert step > 20
            return
    pytest.fail("it never came to an end")


@pytest.mark.usefixtures("fast")
def test_what_was_published_when_the_kill_came_is_there_after_any_next_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A publication that has begun is completed first, also by a command that is then refused."""
    for step in range(1000):
        out = tmp_path / f"data{step}"
        made(out, "a", "old")
        killed = _killed_at(step, monkeypatch, lambda out=out: made(out, "b", "new", overwrite=True))  # type: ignore[misc]
        marker = workspace.read_marker(out)
        assert marker is not None
        begun = bool(marker.publishing) or marker.published == "b"
        with (
            contextlib.suppress(MeninxError),
            workspace.claim(out, stage="prepare", fingerprint="c", resume=True),
        ):
            pass
        assert content(out) == whole("new" if begun else "old"), step
        if not killed:
            return


def _holder(out: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HELD, str(out)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_one_process_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path):
    out = tmp_path / "data"
    holder = _holder(out)
    try:
        with pytest.raises(RunLocked, match="another process"):
            made(out, "a", "x")
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    with workspace.claim(out, stage="prepare", fingerprint="a") as space:
        assert space.continued
        assert (space.staging / "half").read_text() == "x"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        '{"stage": 3}',
        '{"stage": "prepare", "publishing": "images"}',
        '{"stage": "prepare", "publishing": ["../../etc"]}',
        '{"stage": "prepare", "removing": ["/etc"]}',
        '{"stage": "prepare", "removing": ["private"]}',
        '{"stage": "prepare", "removing": ["a/b"]}',
        '{"stage": "prepare", "secret": ["workspace.json"]}',
        '{"stage": "prepare", "removing": ["."]}',
        '{"stage": "prepare", "removing": ["a\\u0000b"]}',
        '{"stage": "\\u001b[2Jx"}',
        "[" * 100_000,
    ],
)
def test_a_damaged_or_hostile_marker_is_an_error_and_touches_nothing(tmp_path: Path, text: str):
    out = tmp_path / "data"
    made(out, "a", "old")
    (out / "private" / "workspace.json").write_text(text)
    with pytest.raises(DataError, match=r"workspace\.json"):
        made(out, "b", "new", overwrite=True)
    assert content(out) == whole("old")


def test_names_to_publish_are_the_stages_own(tmp_path: Path):
    with (
        workspace.claim(tmp_path / "data", stage="prepare", fingerprint="a") as space,
        pytest.raises(DataError),
    ):
        space.publish(["../outside"])


def test_an_output_lies_in_no_source_and_in_no_result_of_a_stage(tmp_path: Path):
    made(tmp_path / "data", "a", "text")
    for out in (tmp_path / "data" / "runs", tmp_path / "data" / "private" / "page.html", tmp_path / "data"):
        with pytest.raises(UsageError, match="outside releases"):
            workspace.outside(out)
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="outside the source"):
        workspace.outside(tmp_path / "images" / "runs", [tmp_path / "images"])
    workspace.outside(tmp_path / "runs", [tmp_path / "data"])
    workspace.outside(tmp_path, [tmp_path / "data"])  # the source may lie in the folder of outputs


def test_no_result_is_built_inside_another_one(tmp_path: Path):
    """A second archive inside the first one would make ``verify`` refuse the first."""
    made(tmp_path / "clean", "a", "text")
    with pytest.raises(UsageError, match=r"outside releases.*and clean is one"):
        workspace.check(tmp_path / "clean" / "north", stage="deid", fingerprint="f")
    with (
        pytest.raises(UsageError, match="outside"),
        workspace.claim(tmp_path / "clean" / "deep" / "north", stage="deid", fingerprint="f"),
    ):
        pass
    assert not (tmp_path / "clean" / "deep").exists()


def stopped(out: Path, *, work: bool) -> None:
    """Hold a folder, see that nobody else can, and fail with or without a result."""
    with workspace.held(out):
        with pytest.raises(RunLocked), workspace.held(out):
            pass
        if work:
            (out / "work").mkdir()
        raise InterruptedError


def test_a_folder_that_is_held_goes_again_when_nothing_was_made(tmp_path: Path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(InterruptedError):
        stopped(out, work=False)
    assert not (tmp_path / "deep").exists()
    with pytest.raises(InterruptedError):
        stopped(out, work=True)
    assert (out / "work").is_dir()


@pytest.mark.parametrize(
    "name", ["private", "private/staging", "private/lock", "private/workspace.json", "private/replaced"]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_private_room_that_is_a_link_is_refused_and_what_it_leads_to_stays_as_it_was(
    tmp_path: Path, name: str, there: bool
):
    out, abroad = tmp_path / "data", tmp_path / "abroad"
    link = out / name
    link.parent.mkdir(parents=True)
    if there:
        abroad.mkdir(mode=0o755)
        abroad.chmod(0o755)
    link.symlink_to(abroad)
    for command in (lambda: made(out, "a", "x"), lambda: made(out, "a", "x", overwrite=True, resume=True)):
        with pytest.raises(UsageError, match="link"):
            command()
    with pytest.raises(UsageError, match="link"):
        workspace.check(out, stage="prepare", fingerprint="a")
    if name == "private":
        with pytest.raises(UsageError, match="link"):
            workspace.make_private(out)
    assert link.is_symlink()
    assert abroad.exists() is there
    if there:
        assert (abroad.stat().st_mode & 0o777, list(abroad.iterdir())) == (0o755, [])


def test_a_link_that_is_put_into_a_complete_result_is_not_followed_either(tmp_path: Path):
    out, abroad = tmp_path / "data", tmp_path / "abroad"
    made(out, "a", "first")
    abroad.mkdir()
    (out / "private").rename(tmp_path / "moved")
    (out / "private").symlink_to(tmp_path / "moved")
    with pytest.raises(UsageError, match="link"):
        made(out, "a", "second", overwrite=True)
    assert content(out) == whole("first")


def test_what_was_computed_from_the_earlier_result_goes_with_it(tmp_path: Path) -> None:
    out = tmp_path / "data"
    with workspace.claim(out, stage="prepare", fingerprint="a") as space:
        space.publish([])
    files.write_text(
        out / "private" / "cache" / "decoded.bin", "images of a patient who withdrew", mode=0o600
    )
    with workspace.claim(out, stage="prepare", fingerprint="b", overwrite=True) as space:
        assert (out / "private" / "cache").is_dir()
        space.publish([])
    assert not (out / "private" / "cache").exists()
