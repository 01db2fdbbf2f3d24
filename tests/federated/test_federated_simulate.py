"""A simulated study: one table of local, pooled and federated models, records, resumption, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from meninx.core import artifacts
from meninx.core.errors import ConfigError, DataError, UsageError
from meninx.core.federation import FederatedRecord
from meninx.core.manifest import Manifest
from meninx.core.progress import Silent
from meninx.core.run import open_run
from meninx.federated import pooling, simulate
from meninx.federated.config import StudyConfig
from meninx.learn import ledger_file
from meninx.synthetic import write_dataset

TRAIN = {
    "model": "resnet9-small", "model_options": {"width": 8}, "batch_size": 4, "lr": 3e-3, "export": (),
    "eval_every": 50,
}  # fmt: skip
CONFIG = StudyConfig.of(rounds=2, local_steps=2, train=TRAIN)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three prepared datasets, one of which has twice the patients."""
    root = tmp_path_factory.mktemp("sites")
    sizes = {"East Wing": 12, "north": 12, "west": 24}
    for seed, (name, patients) in enumerate(sizes.items()):
        write_dataset(root / name, patients=patients, size=16, seed=seed)
    return [root / name for name in sizes]


@pytest.fixture(scope="session")
def finished(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> simulate.SimulateResult:
    """A finished simulation with baselines."""
    out = tmp_path_factory.mktemp("simulated") / "study"
    return simulate.run(CONFIG, folders, out, baselines=True, device="cpu")


@pytest.mark.slow
def test_the_table_has_every_arm_on_every_sites_own_test_patients(
    finished: simulate.SimulateResult, folders: list[Path]
) -> None:
    cells = {(row.arm, row.site): row for row in finished.rows}
    assert set(cells) == {
        (arm, site) for arm in ("local", "pooled", "federated") for site in ("east-wing", "north", "west")
    }
    tests = [len(Manifest.read(path).split("test").patients) for path in folders]
    for (_, site), row in cells.items():
        assert row.patients == tests[["east-wing", "north", "west"].index(site)]
        if site == "west":  # the others have too few test patients for an interval
            assert row.low <= row.value <= row.high
        assert row.steps == 4  # the same number in every arm
    text = finished.summary()
    assert "local" in text.splitlines()[3]
    assert "east-wing" in text
    with (finished.out / "table.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 9


@pytest.mark.slow
def test_the_study_is_on_record_and_its_parts_are_runs(finished: simulate.SimulateResult) -> None:
    record = artifacts.read(finished.out, FederatedRecord)
    assert record is not None
    assert (record.study, record.simulated, record.finished, record.aggregation) == (
        "study",
        True,
        True,
        "masks",
    )
    assert record.sites == ("east-wing", "north", "west")
    assert [entry.units for entry in record.rounds] == [record.rounds[0].units] * 2
    assert all(set(entry.recomputed) == set(record.sites) for entry in record.rounds)
    assert set(finished.runs) == set(record.sites)
    assert json.loads(finished.to_json())["rounds"] == 2


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(
    finished: simulate.SimulateResult, folders: list[Path], tmp_path: Path
) -> None:
    out = shutil.copytree(finished.out, tmp_path / "study", symlinks=True)

    class NoTraining(Silent):
        def start(self, label: str, total: int | None) -> None:
            assert "training" not in label

    again = simulate.run(CONFIG, folders, out, baselines=True, device="cpu", progress=NoTraining())
    assert [row.value for row in again.rows] == [row.value for row in finished.rows]


@pytest.mark.slow
def test_a_simulation_that_was_stopped_goes_on_where_it_was(
    finished: simulate.SimulateResult, folders: list[Path], tmp_path: Path
) -> None:
    class Stops(Silent):
        left = 5

        def advance(self, count: int = 1, **fields: float | str) -> None:
            self.left -= count
            if self.left == 0:
                raise KeyboardInterrupt

    with pytest.raises(BaseException):  # noqa: B017, PT011 (as Ctrl-C)
        simulate.run(CONFIG, folders, tmp_path / "study", device="cpu", progress=Stops())
    result = simulate.run(CONFIG, folders, tmp_path / "study", device="cpu")
    uninterrupted = artifacts.read(finished.out, FederatedRecord)
    record = artifacts.read(tmp_path / "study", FederatedRecord)
    assert result.rounds == 2
    assert record is not None
    assert uninterrupted is not None
    values = [row.value for row in finished.rows if row.arm == "federated"]
    assert [row.value for row in result.rows] == values


@pytest.mark.slow
def test_private_sites_keep_their_own_accounts(folders: list[Path], tmp_path: Path) -> None:
    config = StudyConfig.of(
        rounds=2, local_steps=2, train={**TRAIN, "epsilon": 8.0, "delta": 1e-3, "attack_risk": False}
    )
    result = simulate.run(config, folders, tmp_path / "study", baselines=True, device="cpu")
    record = artifacts.read(tmp_path / "study", FederatedRecord)
    assert record is not None
    for name, folder in result.runs.items():
        own = ledger_file.read(open_run(folder)).epsilon(1e-3)
        assert record.epsilon[name] == pytest.approx(own)
        assert own <= 8.0
    assert record.largest == max(value for value in record.epsilon.values() if value is not None)
    assert all(row.epsilon is not None for row in result.rows)


def test_datasets_that_cannot_be_trained_together_are_refused(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two sites"):
        simulate.run(CONFIG, folders[:1], tmp_path / "a", device="cpu")
    with pytest.raises(UsageError, match="given twice"):
        simulate.run(CONFIG, [folders[0], folders[0]], tmp_path / "b", device="cpu")
    other = write_dataset(tmp_path / "other", patients=12, size=24)
    with pytest.raises(ConfigError, match="the dataset of other differs: size"):
        simulate.run(CONFIG, [folders[0], other.root], tmp_path / "c", device="cpu")
    with pytest.raises(UsageError):
        simulate.run(CONFIG, folders, folders[0] / "inside", device="cpu")


def test_the_pooled_dataset_keeps_splits_and_separates_equal_pseudonyms(
    folders: list[Path], tmp_path: Path
) -> None:
    data = {path.name.split()[0].lower(): Manifest.read(path) for path in folders}
    whole = pooling.pooled(data, tmp_path / "pooled")
    assert len(whole) == sum(len(item) for item in data.values())
    for split in ("train", "valid", "test"):
        patients = sum(len(item.split(split).patients) for item in data.values())
        assert len(whole.split(split).patients) == patients
    assert whole.sites == ("east", "north", "west")
    assert bool(whole.checksums) == all(item.checksums for item in data.values())
    whole.check_file(whole.cases[0].image)
    assert pooling.pooled(data, tmp_path / "pooled").cases == whole.cases


def test_settings_that_no_site_can_train_with_are_refused_before_the_first_round(
    folders: list[Path], tmp_path: Path
) -> None:
    config = StudyConfig.of(rounds=2, local_steps=2, train={**TRAIN, "warmup": 20})
    with pytest.raises(ConfigError, match="fewer warmup steps than the 4"):
        simulate.run(config, folders, tmp_path / "study", device="cpu")
    assert not (tmp_path / "study" / "private" / simulate.STATE).exists()


def test_sites_with_the_same_images_are_refused(folders: list[Path], tmp_path: Path) -> None:
    again = shutil.copytree(folders[1], tmp_path / "again")
    with pytest.raises(DataError, match=r"north and again have .* images in common"):
        simulate.run(CONFIG, [*folders[:2], again], tmp_path / "study", device="cpu")


def test_sites_with_the_same_identifiers_of_the_source_are_named(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate.identity, "identifiers_of", lambda *parts: ("a" * 64,))
    data = {path.name: Manifest.read(path) for path in folders[1:]}
    (words,) = simulate._shared_patients(data)
    assert words.startswith("north and west have 1 identifiers of patients in the source in common")


def test_the_bound_of_units_of_a_simulation_is_the_largest_site(folders: list[Path], tmp_path: Path) -> None:
    data = {path.name: Manifest.read(path) for path in folders[1:]}
    config = simulate._completed(CONFIG, data, tmp_path / "study")
    assert config.aggregation.max_units == len(data["west"].split("train").patients)
