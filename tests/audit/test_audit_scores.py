"""`meninx audit scores`: verdicts and exit codes, and files that somebody else wrote."""

import io
import json
import pickle

import numpy as np
import pytest

from meninx.audit.config import ScoresConfig
from meninx.audit.scores import claim_of, read_scores, run_scores
from meninx.cli.app import run
from meninx.core.errors import AuditFinding, ConfigError, DataError, UsageError

GAUSSIAN = ("--noise-multiplier", "5", "--sample-rate", "1", "--steps", "100")  # mu = 2, epsilon 10


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name, mean in (("out", 0.0), ("honest", 2.0), ("half", 4.0)):
        np.save(tmp_path / f"{name}.npy", rng.normal(mean, 1.0, 500))
    return tmp_path


def command(folder, name, *flags):
    paths = ["--in", str(folder / f"{name}.npy"), "--out", str(folder / "out.npy")]
    return run(["audit", "scores", *paths, *flags])


@pytest.mark.parametrize(
    ("name", "flags", "code", "words"),
    [
        ("honest", ("--claimed-eps", "10"), 0, "consistent with the claim"),
        ("honest", GAUSSIAN, 0, "consistent with the claim"),
        ("half", ("--claimed-eps", "10"), 0, "suspicious"),
        ("half", GAUSSIAN, 5, "REFUTED by mu (asymptotic), TPR - FPR (certified)"),
        ("half", ("--claimed-eps", "1"), 5, "(certified)"),
    ],
)
def test_verdicts_and_exit_codes(files, capsys, name, flags, code, words):
    assert command(files, name, *flags) == code
    shown = capsys.readouterr()
    assert words in shown.out
    assert ("refuted" in shown.err) == (code == 5)


def test_json_holds_every_number_and_the_verdict(files, capsys):
    assert command(files, "half", *GAUSSIAN, "--json") == 5
    table = json.loads(capsys.readouterr().out)
    assert table["audit"]["verdict"] == "refuted"
    assert table["audit"]["included"] == 500
    assert {check["basis"] for check in table["audit"]["checks"]} == {"certified", "asymptotic"}
    assert table["mechanism"] is True


def test_certified_and_model_based_numbers_are_never_mixed(files, capsys):
    command(files, "honest", *GAUSSIAN)
    certified, model = capsys.readouterr().out.split("model-based, not certified:")
    assert "Steinke" in certified and "Mahloujifar" in certified and "Clopper-Pearson" in certified  # noqa: PT018
    assert "mu " not in certified.split("certified, each with 95 % confidence:")[1]
    assert "Gaussian" in model
    assert "no evidence of privacy" in model
    assert "no certified bound exceeds 4.45 (Steinke et al.), 7.64 (f-DP form), 3.15 (error rates)" in model


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({}, UsageError, "--claimed-eps"),
        ({"noise_multiplier": 1.0, "steps": 3, "claimed_eps": 1.0}, UsageError, "2 of the three"),
        (
            {"claimed_eps": 1.0, "noise_multiplier": 5.0, "sample_rate": 1.0, "steps": 100},
            ConfigError,
            "a mechanism of epsilon 1 or less",
        ),
    ],
)
def test_claims_that_do_not_fit_are_refused(settings, kind, words):
    with pytest.raises(kind, match=words):
        claim_of(ScoresConfig(**settings))


def test_a_refuted_result_raises_and_others_do_not(files):
    config = ScoresConfig(claimed_eps=1.0)
    with pytest.raises(AuditFinding, match="refuted by"):
        run_scores(config, files / "half.npy", files / "out.npy").raise_if_refuted()
    run_scores(ScoresConfig(claimed_eps=50.0), files / "half.npy", files / "out.npy").raise_if_refuted()


# files


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, scores=np.zeros(50))
    return buffer.getvalue()


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print, print], dtype=object), allow_pickle=True)
    return buffer.getvalue()


NUMBERS = np.zeros(50).tobytes()
HOSTILE = {
    "empty": b"",
    "text": b"1.0\n2.0\n",
    "pickle": pickle.dumps([1.0] * 50),
    "archive": archive(),
    "objects": objects(),
    "code": npy("__import__('os').system('true')", NUMBERS),
    "deep": npy("(" * 400, NUMBERS),
    "huge": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }", NUMBERS),
    "negative": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-50,), }", NUMBERS),
    "table": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10, 5), }", NUMBERS),
    "single": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", NUMBERS[:8]),
    "short": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (50,), }", NUMBERS[:-1]),
    "long": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (50,), }", NUMBERS + b"0"),
    "fields": npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (50,), }", NUMBERS),
    "dates": npy("{'descr': '<M8[D]', 'fortran_order': False, 'shape': (50,), }", NUMBERS),
    "version": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (50,), }", NUMBERS, b"\x09\x00"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_hold_no_scores_are_refused_in_a_sentence(name, tmp_path):
    path = tmp_path / "scores.npy"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(DataError, match=r"scores\.npy"):
        read_scores(path)


def test_a_folder_a_missing_file_and_a_file_that_is_too_large_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError):
        read_scores(tmp_path)
    with pytest.raises(DataError):
        read_scores(tmp_path / "none.npy")
    np.save(tmp_path / "scores.npy", np.zeros(5_000))
    monkeypatch.setattr("meninx.audit.scores._MOST_BYTES", 1_000)
    with pytest.raises(DataError, match=r"scores\.npy"):
        read_scores(tmp_path / "scores.npy")


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i4", "|u1", "<f8"])
def test_every_kind_of_number_is_read(kind, tmp_path):
    np.save(tmp_path / "scores.npy", np.arange(30).astype(kind))
    assert read_scores(tmp_path / "scores.npy").tolist() == list(range(30))
