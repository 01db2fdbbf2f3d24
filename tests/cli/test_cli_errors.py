"""Errors give an exit code per class, a message without a traceback, and never a patient's value."""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from meninx import api
from meninx.cli import console, doctor
from meninx.core import errors

NAME = "Quillfeather^Rosalind"
CODES = {
    "MeninxError": 1, "UsageError": 2, "ConfigError": 2, "DataError": 3, "LayoutError": 3, "StorageError": 3,
    "PrivacyRefusal": 4, "AuditFinding": 5, "RunLocked": 3, "Interrupted": 130,
}  # fmt: skip


def _tree(kind: type[errors.MeninxError]) -> list[type[errors.MeninxError]]:
    return [kind, *(item for child in kind.__subclasses__() for item in _tree(child))]


def _raising(monkeypatch, error: BaseException) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(doctor, "examine", fail)


def test_the_table_knows_every_class():
    assert {kind.__name__ for kind in _tree(errors.MeninxError) if kind.__module__ == errors.__name__} == set(
        CODES
    )


def test_the_drawing_of_the_tree_says_the_same():
    drawn = dict(re.findall(r"(\w+) +(\d+)(?:  |$)", errors.__doc__ or "", flags=re.MULTILINE))
    assert {name: int(code) for name, code in drawn.items()} == CODES


@pytest.mark.parametrize("name", CODES)
def test_each_class_has_its_exit_code_and_no_traceback(invoke, monkeypatch, name):
    message = errors.expected("a rule", got="something else", where="a place", fix="do this")
    _raising(monkeypatch, getattr(errors, name)(message))
    said = invoke("doctor")
    assert said.code == CODES[name]
    assert said.err == "meninx: expected a rule, got something else (a place); do this\n"
    assert said.out == ""


def test_no_message_ends_in_got_another_or_got_none():
    """Such a message says no more than its first half; ``problem`` says what is wrong instead."""
    empty = re.compile(r'got=f?"(another\b[^"{]*|none|others?|other values|both|neither|nothing)"')
    root = Path(errors.__file__).parent.parent
    found = [path.name for path in root.rglob("*.py") if empty.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_ctrl_c_is_130(invoke, monkeypatch):
    _raising(monkeypatch, KeyboardInterrupt())
    said = invoke("doctor")
    assert said.code == 130
    assert "--resume" in said.err
    assert "Traceback" not in said.err


def test_a_bug_tells_its_kind_and_place_and_hides_its_message(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _raising(monkeypatch, ValueError(f"cannot parse {NAME}"))
    said = invoke("doctor")
    assert said.code == 1
    assert re.match(r"meninx: a bug: ValueError at test_cli_errors\.py:\d+; the traceback is in ", said.err)
    assert NAME not in said.out + said.err
    assert "Traceback" not in said.err
    (kept,) = tmp_path.iterdir()
    assert str(kept) in said.err
    assert kept.stat().st_mode & 0o777 == 0o600
    assert NAME in kept.read_text()


def test_verbose_shows_the_traceback_of_a_bug(invoke, monkeypatch, tmp_path):
    from meninx.prepare import stage

    def fail(*given: object, **named: object) -> None:
        raise ValueError(NAME)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(stage, "run", fail)
    assert NAME not in invoke("prepare", tmp_path, "b").err
    assert "Traceback" in invoke("prepare", tmp_path, "b", "--verbose").err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_refusal_of_the_system_is_no_bug_and_hides_the_file_name(invoke, monkeypatch, number):
    _raising(monkeypatch, OSError(number, "whatever", f"/archive/{NAME}.dcm"))
    said = invoke("doctor")
    assert said.code == 3
    assert said.err.startswith("meninx: expected the system to allow it, got ")
    assert NAME not in said.err


def test_a_reader_that_went_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "meninx", "recipes"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_went_away_before_the_end_leaves_no_traceback():
    """The buffered result is written before the interpreter ends, so that an error can be caught."""
    command = [sys.executable, "-m", "meninx", "recipes", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (0, "")
    process.stderr.close()


def test_progress_that_nobody_reads_does_not_stop_the_work(monkeypatch):
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(console.sys, "stderr", Gone())
    lines = console.PlainLines()
    lines.start("reading", 2)
    lines.advance(2)
    lines.note("done")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_stops_any_verb_with_130(name):
    script = """
        import os, signal, sys
        from meninx.cli import app, doctor
        doctor.examine = lambda: os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        app.main(["doctor"])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "meninx: interrupted; run again with --resume where the stage offers it\n"


def test_a_hangup_that_nohup_ignores_stays_ignored():
    script = """
        import os, signal
        from meninx.cli import app, doctor
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        doctor.examine = lambda: os.kill(os.getpid(), signal.SIGHUP) or {"heard": "nothing"}
        app.main(["doctor"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["heard", "nothing"])


def test_a_misspelt_folder_is_told_before_anything_slow_is_imported(tmp_path):
    script = """
        import sys
        from meninx.cli.app import run
        lines = ["train datta", "train datta --dry-run", "train datta --resume runs/latest", "sweep datta",
                 "evaluate runs/latst", "evaluate runs/latst --data datta", "report nowhere",
                 "prepare imagse out", "deid nowhere out --key k"]
        codes = {line: run(line.split()) for line in lines}
        print([codes, sorted({"torch", "monai"} & set(sys.modules))])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    codes, slow = ast.literal_eval(done.stdout)
    assert set(codes.values()) <= {2, 3}
    assert slow == []
    assert len(done.stderr.splitlines()) == len(codes)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_is_copied_and_an_existing_file_is_left_alone(invoke, tmp_path):
    target = tmp_path / "mine.toml"
    assert invoke("recipes", "tiny", "--copy", target).out == f"{target}\n"
    target.write_text("mine")
    said = invoke("recipes", "tiny", "--copy", target)
    assert said.code == 2
    assert target.read_text() == "mine"


def test_a_file_is_no_packaged_recipe(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("epochs = 1\n")
    said = invoke("recipes", "mine.toml")
    assert said.code == 2
    assert "expected the name of a packaged recipe" in said.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--lr", "0.1"), "--lr"),
        (("--seed", "0"), "--seed"),
        (("--recipe", "tiny"), "--recipe"),
        (("--dry-run",), "--dry-run"),
        (("--epsilon", "3"), "--epsilon"),
        (("--privacy.delta", "1e-3"), "--delta"),
        (("--model-options.width", "8", "--quiet"), "--model-options"),
    ],
)
def test_settings_beside_resume_are_refused_by_name(invoke, tmp_path, words, named):
    said = invoke("train", tmp_path, "--resume", tmp_path / "run", *words)
    assert said.code == 2
    assert f"would ignore {named}; leave them out" in said.err


def test_resume_alone_is_taken(invoke, tmp_path):
    said = invoke("train", tmp_path, "--resume", tmp_path / "run", "--quiet")
    assert "would ignore" not in said.err


@pytest.mark.torch
@pytest.mark.parametrize("more", [{"lr": 0.1}, {"recipe": "tiny"}, {"out": "runs"}])
def test_settings_beside_resume_are_refused_in_python(tmp_path, more):
    with pytest.raises(errors.UsageError, match=f"would ignore {next(iter(more))}"):
        api.train(tmp_path, resume=tmp_path, **more)


def test_a_default_passes_the_checks_of_pydantic_which_flower_loads(invoke, tmp_path):
    """The parser checks every default with pydantic where it is loaded. A word is no list of words."""
    pytest.importorskip("pydantic")
    for verb in ("train", "sweep"):
        assert invoke(verb, tmp_path / "nothing").code == 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_while_the_command_line_is_imported_shows_no_traceback(tmp_path):
    (tmp_path / "cyclopts.py").write_text("raise KeyboardInterrupt\n")  # the first thing that is imported
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "meninx", "doctor"], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "meninx: interrupted; nothing was begun\n"
