"""The model card: complete, or an error that names what is missing."""

from __future__ import annotations

import tomllib

import pytest
from report_samples import PLANTED, relist, write_dataset, write_run

from meninx.core.artifacts import EvaluationRecord, RunState, place
from meninx.core.errors import ConfigError, DataError
from meninx.report import stage
from meninx.report.config import ReportConfig

CONFIG = ReportConfig(card=True, authors="The data team", contact="team@hospital.example", date="2026-11-20")
HEADINGS = [
    "Model Details",
    "Uses",
    "Bias, Risks, and Limitations",
    "How to Get Started with the Model",
    "Training Details",
    "Evaluation",
    "Environmental Impact",
    "Technical Specifications",
    "Model Card Authors",
    "Model Card Contact",
]


@pytest.fixture
def sources(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    return [dataset, write_run(tmp_path / "run", private=True, dataset=dataset)]


def test_card_has_front_matter_and_the_known_order(tmp_path, sources):
    [path] = stage.run(CONFIG, sources, tmp_path / "r.html").cards
    text = path.read_text()
    assert path == tmp_path / "run" / "release" / "MODEL_CARD.md"
    _, front, body = text.split("---\n", 2)
    assert 'license: "other"' in front
    assert "- differential-privacy" in front
    assert [line[3:] for line in body.splitlines() if line.startswith("## ")] == HEADINGS
    for empty in ("None", "nan", "More Information Needed", "{{", PLANTED, "/home/"):
        assert empty not in text, empty
    assert "epsilon = 4.64" in text
    assert "| train | 72 | 36 |" in text
    assert "[0." in text


def test_a_run_without_privacy_says_so(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    sources = [dataset, write_run(tmp_path / "run", private=False, dataset=dataset)]
    text = stage.run(CONFIG, sources, tmp_path / "r.html").cards[0].read_text()
    assert "WITHOUT differential privacy" in text
    assert "- not-private" in text


def test_a_stamped_run_is_not_for_release(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    sources = [dataset, write_run(tmp_path / "run", private=True, deterministic=True, dataset=dataset)]
    assert "NOT FOR RELEASE" in stage.run(CONFIG, sources, tmp_path / "r.html").cards[0].read_text()


def test_everything_that_a_person_must_say_is_asked_for_at_once(tmp_path, sources):
    with pytest.raises(ConfigError, match=r"lacks authors, contact \(card\); give --authors --contact, or"):
        stage.run(ReportConfig(card=True), [tmp_path / "never looked at"], tmp_path / "r.html")
    with pytest.raises(ConfigError, match="intended use"):
        stage.run(
            ReportConfig(card=True, authors="a", contact="c", intended_use=" "), sources, tmp_path / "r.html"
        )
    (sources[1] / place(EvaluationRecord)).unlink()
    relist(sources[1])
    with pytest.raises(ConfigError, match=r"lacks contact, an evaluation of run .* run `meninx evaluate"):
        stage.run(ReportConfig(card=True, authors="a"), sources, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("gone", "said"), [(place(EvaluationRecord), "evaluation"), ("environment.json", "package versions")]
)
def test_a_missing_summary_is_an_error_and_nothing_is_written(tmp_path, sources, gone, said):
    (tmp_path / "run" / gone).unlink()
    relist(tmp_path / "run")
    with pytest.raises(DataError, match=said):
        stage.run(CONFIG, sources, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    assert not (tmp_path / "run" / "release" / "MODEL_CARD.md").exists()


def test_an_unfinished_run_gets_no_card(tmp_path, sources):
    write_run(tmp_path / "killed", private=True, state=RunState.TRAINING, steps=46)
    with pytest.raises(DataError, match="finished run"):
        stage.run(CONFIG, [*sources, tmp_path / "killed"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_missing_dataset_is_an_error(tmp_path, sources):
    with pytest.raises(DataError, match="dataset"):
        stage.run(CONFIG, sources[1:], tmp_path / "r.html")


def test_config_of_the_sample_is_toml(sources):
    assert tomllib.loads((sources[1] / "config.toml").read_text())["model"] == "resnet9"
