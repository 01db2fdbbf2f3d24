"""Two runs at once in one process: each has its own engine, and nothing of a patient stays when they end."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deid_samples import KEY, image, key_file, save, tree
from pydicom.dataset import Dataset

import meninx
from meninx.core import value_caches
from meninx.core.progress import Silent
from meninx.deid import Deidentifier, stage
from meninx.deid.config import DeidConfig
from meninx.deid.identifiers import Identifiers
from meninx.deid.raw_search import RawSearch, raw_search
from meninx.deid.text_search import TextSearch, text_search
from meninx.deid.worker import Engine
from meninx.verify import stage as verify_stage
from meninx.verify.config import DicomCheckConfig


class Together(Silent):
    """Waits after the first file until the other run has finished its first file, too."""

    def __init__(self, both: threading.Barrier) -> None:
        self.both, self.first = both, True

    def advance(self, *words: object, **more: object) -> None:
        if self.first:
            self.first = False
            self.both.wait(60)


def archives(tmp_path: Path) -> None:
    for hospital in ("north", "south"):
        (tmp_path / hospital).mkdir()
        key_file(tmp_path / hospital)
        for number in range(1, 5):
            ds = image(
                number, study=number, PatientID=f"{hospital}00{number}", PatientName="Quillfeather^Ann"
            )
            save(ds, tmp_path / hospital / "in" / f"{hospital}{number}")


def deidentified(folder: Path, out: str, progress: Silent) -> meninx.DeidResult:
    given = DeidConfig(key=key_file(folder), site=folder.name, workers=1)
    return stage.run(given, folder / "in", folder / out, progress=progress)


def test_each_of_two_runs_in_threads_writes_all_of_its_files(tmp_path):
    archives(tmp_path)
    folders, both = [tmp_path / "north", tmp_path / "south"], threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda one: deidentified(one, "out", Together(both)), folders))
    assert [(one.files_written, one.quarantined) for one in results] == [(4, {}), (4, {})]
    for one in folders:
        deidentified(one, "alone", Silent())
        assert tree(one / "out" / "images") == tree(one / "alone" / "images")


def test_each_of_two_checks_in_threads_finds_what_it_searches_for(tmp_path):
    archives(tmp_path)
    both, found = threading.Barrier(2), {}

    def check(name: str) -> None:
        words = tmp_path / f"{name}.txt"
        words.write_text("Quillfeather" if name == "north" else "Nobodyelse")
        config = DicomCheckConfig(workers=1, identifiers=words, pixels=False)
        result = verify_stage.run(tmp_path / name / "in", config=config, progress=Together(both))
        found[name] = result.reasons.get("identifier", 0)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(check, ("north", "south")))
    assert found["north"] >= 4
    assert found["south"] == 0


def holding_a_name() -> int:
    """Return how many searches, identifiers and data sets of this process hold the name of a sample."""
    gc.unfreeze()
    gc.collect()
    kinds = (TextSearch, RawSearch, Identifiers, Dataset)
    # The type, and not isinstance, which asks lazy objects of torch for their class.
    kept = [one for one in gc.get_objects() if issubclass(type(one), kinds)]
    return sum("quillfeather" in repr(vars(one)).casefold() for one in kept)


def test_nothing_of_engine_and_patients_stays_in_a_process_that_goes_on(tmp_path, monkeypatch):
    archives(tmp_path)
    engines: list[weakref.ref[Engine]] = []
    process = stage.process

    def watched(engine: Engine, *words: object) -> object:
        engines.append(weakref.ref(engine.cleaner))
        return process(engine, *words)

    monkeypatch.setattr(stage, "process", watched)
    before = holding_a_name()  # samples of other test files of this process
    deidentified(tmp_path / "north", "out", Silent())
    assert len(engines) == 4
    assert [one for one in engines if one() is not None] == []
    assert holding_a_name() <= before
    assert text_search.cache_info().currsize == raw_search.cache_info().currsize == 0


def filled() -> dict[str, int]:
    """Return the caches of patients' values in this process that are not empty, with their entries."""
    caches = [empty.__self__ for empty in value_caches._empty]
    return {one.__name__: one.cache_info().currsize for one in caches if one.cache_info().currsize}


def test_the_main_process_keeps_no_name_when_workers_cleaned_and_checked_the_files(tmp_path):
    archives(tmp_path)
    value_caches.clear()  # what other tests of this process left
    folder, out = tmp_path / "north", tmp_path / "out"
    stage.run(DeidConfig(key=key_file(folder), site="north", workers=2), folder / "in", out)
    config = DicomCheckConfig(
        workers=2, originals=folder / "in", crosswalks=out / "private" / "crosswalk_uids.csv", pixels=False
    )
    assert verify_stage.run(out / "images", config=config).matched
    assert filled() == {}


def test_a_deidentifier_forgets_when_it_is_closed_and_gives_the_same_bytes_again(tmp_path):
    ds = image(PatientName="Quillfeather^Ann")
    with Deidentifier(key=KEY, site="north") as tool:
        first = tool.deidentify(ds).content
        assert filled()
    assert filled() == {}
    assert tool.deidentify(ds).content == first
    assert filled()
    tool.close()
    assert filled() == {}
