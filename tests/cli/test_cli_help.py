"""Every help ends in examples and comes without the heavy libraries; a slip of the pen gets a suggestion."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import textwrap

import pytest

from meninx.cli.app import VERBS
from meninx.cli.audit import audit
from meninx.cli.dicom import dicom
from meninx.cli.escrow import escrow
from meninx.cli.examples import EXAMPLES
from meninx.cli.federate import STEPS as FEDERATE
from meninx.cli.obfuscate import obfuscate
from meninx.cli.reconstruct import reconstruct
from meninx.core import settings

STEPS = tuple(name for name in dicom if not name.startswith("-"))
AUDIT = tuple(name for name in audit if not name.startswith("-"))
OBFUSCATE = tuple(name for name in obfuscate if not name.startswith("-"))
ESCROW = tuple(name for name in escrow if not name.startswith("-"))
RECONSTRUCT = tuple(name for name in reconstruct if not name.startswith("-"))
HEAVY = ("torch", "monai", "flwr", "scipy", "sklearn", "matplotlib", "dp_accounting", "nibabel", "highdicom")


@pytest.fixture(scope="module")
def helps() -> dict:
    """Every help, from one fresh process, and which heavy modules it had loaded at the end."""
    script = f"""
        import contextlib, io, json, sys
        from meninx.cli.app import run
        helps = {{}}
        for verb in {["", *EXAMPLES]!r}:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run([*verb.split(), "--help"])
            helps[verb] = [code, out.getvalue(), err.getvalue()]
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        print(json.dumps({{"helps": helps, "heavy": heavy}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_every_verb_and_step_has_examples():
    groups = {"audit": AUDIT, "audit reconstruct": RECONSTRUCT, "dicom": STEPS, "federate": FEDERATE}
    groups |= {"obfuscate": OBFUSCATE, "escrow": ESCROW}
    steps = [f"{group} {step}" for group, names in groups.items() for step in names]
    assert set(EXAMPLES) == {*VERBS, *groups, *steps}
    assert all(line.startswith(f"meninx {verb}") for verb, lines in EXAMPLES.items() for line in lines)
    assert len(STEPS) == 6


@pytest.mark.parametrize("verb", EXAMPLES)
def test_every_help_ends_in_its_examples(helps, verb):
    code, out, err = helps["helps"][verb]
    assert (code, err) == (0, "")
    ending = " ".join(["Examples:", *EXAMPLES[verb]])
    assert " ".join(out.split()).endswith(ending)


@pytest.mark.parametrize("verb", EXAMPLES)
def test_no_default_is_written_in_python(helps, verb):
    shown = re.findall(
        r"\[default: ([^\]]*)\]", " ".join(re.sub("[│\n]", " ", helps["helps"][verb][1]).split())
    )
    assert [item for item in shown if not item or re.search(r"[(\[{'\"]|^(None|True|False)$", item)] == []


@pytest.mark.parametrize(
    ("verb", "flag", "words"),
    [
        ("dicom export", "--intensity", "stored, display"),
        ("dicom export", "--bits", "8, 16"),
        ("dicom folders", "--way", "copy, hardlink, symlink"),
        ("train", "--device", "auto, cpu, cuda, cuda:1, mps"),
        ("evaluate", "--device", "auto, cpu, cuda, cuda:1, mps"),
        ("predict", "--device", "auto, cpu, cuda, cuda:1, mps"),
        ("federate new", "--aggregation", "masks, shares, ckks, plain"),
    ],
)
def test_what_a_flag_takes_is_shown(helps, verb, flag, words):
    text = " ".join(re.sub("[│\n]", " ", helps["helps"][verb][1]).split())
    assert words in text.partition(f" {flag} ")[2].partition(" --")[0]


def test_no_help_imports_a_heavy_library(helps):
    assert helps["heavy"] == []


def test_the_first_help_lists_the_verbs_and_the_exit_codes(helps):
    code, out, _ = helps["helps"][""]
    assert code == 0
    assert all(f" {verb} " in out for verb in VERBS)
    assert " ".join(out.split()).endswith("130 interrupted.")


@pytest.mark.parametrize("verb", ["train", "prepare", "sweep"])
def test_help_shows_ten_everyday_settings_before_the_others(helps, verb):
    _, out, _ = helps["helps"][verb]
    everyday, _, others = out.partition("Everyday settings")[2].partition("─ Settings")
    assert len(re.findall(r"^│ --", everyday, re.MULTILINE)) == 10
    assert others
    assert not set(re.findall(r"^│ (--[a-z-]+)", everyday, re.MULTILINE)) & set(
        re.findall(r"^│ (--[a-z-]+)", others, re.MULTILINE)
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_flags_and_choices(invoke, shell):
    said = invoke("completion", shell)
    assert (said.code, said.err) == (0, "")
    assert all(word in said.out for word in (*VERBS, "epsilon", "auto-s"))


def test_completion_of_an_unknown_shell_names_those_it_knows(invoke):
    said = invoke("completion", "csh")
    assert said.code == 2
    assert all(name in said.err for name in ("bash", "zsh", "fish", "powershell"))


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["tran", "data"], 'Did you mean "train"?'),
        (["repot", "clean"], 'Did you mean "report"?'),
        (["dicom", "exprot", "a", "b"], 'Did you mean "export"?'),
        (["train", "data", "--recipie", "tiny"], "Did you mean --recipe?"),
        (["train", "data", "--privacy.epsilom", "8"], "Did you mean --epsilon?"),
        (["train", "data", "--learning-rate", "1"], "Did you mean --lr?"),
        (["train", "data", "--target-epsilon=8"], "Did you mean --epsilon?"),
        (["deid", "a", "b", "--sight", "north"], "Did you mean --site?"),
        (["deid", "a", "b", "--options", "retain-devise"], 'Did you mean "retain-device"?'),
        (["train", "data", "--recipe", "tyni"], "did you mean 'tiny'?"),
        (["recipes", "cxr-pd"], "did you mean 'cxr-dp'?"),
        (["evaluate", "run", "--predictions", "csw"], 'Did you mean "csv"?'),
    ],
)
def test_a_slip_of_the_pen_gets_a_suggestion(invoke, words, suggestion):
    said = invoke(*words)
    assert (said.code, said.out) == (2, "")
    assert suggestion in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("verb", "text", "key", "suggestion"),
    [
        ("train", "epoch = 3", "epoch", "epochs"),
        ("train", "[privacy]\nepsilonn = 3.0", "privacy.epsilonn", "privacy.epsilon"),
        ("train", "[optim]\nepochs = 3", "optim.epochs", "sampling.epochs"),
        ("train", "[model]\nmodel = 'unet'", "model.model", "model.name"),
        ("train", "[optimiser]\nlr = 0.1", "optimiser", "optim"),
        ("sweep", "[grid]\nepsilon = [3.0]", "grid.epsilon", "privacy.epsilon"),
        ("sweep", "batchsize = 3", "batchsize", "batch_size"),
        ("deid", 'profil = "basic"', "profil", "profile"),
        ("prepare", 'reder = "folder"', "reder", "reader"),
        ("report", 'titel = "mine"', "titel", "title"),
    ],
)
def test_a_wrong_key_of_a_recipe_names_file_and_key(invoke, tmp_path, verb, text, key, suggestion):
    (tmp_path / "mine.toml").write_text(text + "\n")
    paths = {"deid": ["a", "b"], "prepare": ["a", "b"]}.get(verb, ["a"])
    said = invoke(verb, *paths, "--recipe", tmp_path / "mine.toml")
    assert (said.code, said.out) == (2, "")
    assert (
        said.err == f"meninx: expected a known key, got {key!r} (mine.toml); did you mean {suggestion!r}?\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[sampling]\nepochs = "three"',
            "expected a value of type int, got 'three' (mine.toml, sampling.epochs)\n",
        ),
        ("[sampling]\nepochs = -1", "expected epochs > 0, got -1 (mine.toml, sampling.epochs)\n"),
        (
            '[optim]\nschedule = "step"',
            "the step schedule needs milestones (milestones) [mine.toml]\n",
        ),
        ("epochs =", "(mine.toml)"),
    ],
)
def test_a_wrong_value_of_a_recipe_names_file_and_key(invoke, tmp_path, text, told):
    (tmp_path / "mine.toml").write_text(text + "\n")
    said = invoke("train", "data", "--recipe", tmp_path / "mine.toml")
    assert said.code == 2
    assert told in said.err


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (b"\xff\xfe\x00", 3, "the file is not UTF-8 text (mine.toml)"),
        (b"#" * (1 << 21), 3, "a file of at most 1,048,576 bytes"),
        (b"x = " + b"[" * 100_000, 2, "expected valid TOML"),
    ],
    ids=["no text", "too large", "too deep"],
)
def test_a_file_that_is_no_recipe_is_refused(invoke, tmp_path, content, code, told):
    (tmp_path / "mine.toml").write_bytes(content)
    said = invoke("train", "data", "--recipe", tmp_path / "mine.toml")
    assert said.code == code
    assert told in said.err


@pytest.mark.parametrize(
    "name",
    [
        "deid.config:DeidConfig",
        "prepare.config:PrepareConfig",
        "train.config:TrainConfig",
        "train.config:EvaluateConfig",
        "train.config:SweepConfig",
        "report.config:ReportConfig",
        "demo.config:DemoConfig",
        "federated.config:StudyConfig",
        "federated.policy:PolicyConfig",
    ],
)
def test_every_setting_of_every_command_has_a_meaning(name: str) -> None:
    module, _, kind = name.partition(":")
    meanings = settings.meanings(getattr(importlib.import_module(f"meninx.{module}"), kind))
    assert [key for key, text in meanings.items() if not text] == []


def test_a_label_map_means_one_thing_in_the_help_of_evaluate(helps: dict) -> None:
    text = helps["helps"]["evaluate"][1]
    assert "--rename-labels" in text
    assert "--label-map" not in text


def test_the_meaning_of_a_flag_is_one_paragraph_that_the_terminal_wraps():
    from meninx.cli.audit import audit_run

    assert "the end of a finding's key, one of" in (audit_run.__doc__ or "")
