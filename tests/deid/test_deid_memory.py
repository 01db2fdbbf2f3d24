"""De-identification in memory gives what the folder stage gives, or an error that says why not."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from deid_samples import KEY, PATIENT_ID, PLANTED, clean, image, item, key_file, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from meninx.core.errors import ConfigError, DataError, LayoutError, PrivacyRefusal
from meninx.deid import deidentifier, selfcheck, walker
from meninx.deid.config import DeidConfig
from meninx.deid.deidentifier import Deidentifier, Quarantined
from meninx.deid.identity.keys import KeyFile, SiteKey
from meninx.deid.options import Option
from meninx.deid.stage import run
from meninx.dicomfile import instance
from meninx.dicomfile.refusals import Reason

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
OF_A_FOLDER = {Reason.DUPLICATE_IDENTICAL, Reason.DUPLICATE_DIFFERENT}  # a single file has no duplicate


def memory(**settings) -> Deidentifier:
    return Deidentifier(**{"key": KEY, "site": "north", **settings})


def bytes_of(ds: Dataset, folder: Path, **how) -> bytes:
    return save(ds, folder / "made", **how).read_bytes()


def same_as_the_folder(source: Path, out: Path, **settings) -> tuple[int, int]:
    """Compare every file of a folder; return how many were written and how many kept out."""
    config = {"key": key_file(out.parent / "key", KEY), "site": "north", "workers": 1, **settings}
    run(DeidConfig(**config), source, out)
    tool, written, refused = memory(**settings), 0, 0
    for line in (out / "private" / "journal.jsonl").read_text().splitlines():
        row = json.loads(line)
        data = (source / row["path"]).read_bytes()
        if row["status"] == "written":
            result = tool.deidentify(data)
            assert result.content == (out / row["output"]).read_bytes()
            assert f"images/{result.path}" == row["output"]
            assert result.actions == row["actions"]
            assert list(result.review) == row["review"]
            assert (result.patient_id, result.study_uid) == (row["patient"][1], row["study"])
            assert (result.series_uid, result.sop_instance_uid) == (row["series"], row["instance"])
            written += 1
        elif row["reason"] not in OF_A_FOLDER:
            with pytest.raises(Quarantined) as caught:
                tool.deidentify(data)
            assert caught.value.reason == row["reason"]
            refused += 1
    return written, refused


@pytest.mark.parametrize("profile", ["research", "basic"])
def test_a_hospitals_archive_comes_out_as_from_the_folder_stage(tmp_path, cohort, profile):
    source = cohort.root / cohort.config.hospitals[0] / "archive"
    written, refused = same_as_the_folder(source, tmp_path / "out", profile=profile)
    assert written > 15
    assert refused >= 4


@pytest.mark.realdata
def test_real_files_come_out_as_from_the_folder_stage(tmp_path):
    if not REAL.is_dir():
        pytest.skip("no real images beside the checkout")
    for name in ("presidio_burned_in", "deid_data_dicom-cookies", "nih_dx"):
        written, _ = same_as_the_folder(REAL / name, tmp_path / name / "out", pixels="keep")
        assert written


def _held(dataset: Dataset) -> dict[int, tuple[str | None, object]]:
    """VR and value of every element as the data set holds it, unparsed.

    The sign of the pixels is left out: pydicom parses it when it writes a sequence.
    """
    elements = [dataset.get_item(tag) for tag in dataset.keys() if tag != 0x00280103]  # noqa: SIM118
    return {int(element.tag): (element.VR, element.value) for element in elements}


def test_a_data_set_comes_out_as_its_file_does_and_is_not_changed(tmp_path, cohort):
    tool, compared = memory(), 0
    paths = sorted((cohort.root / cohort.config.hospitals[0] / "archive").rglob("*"))
    for path in (path for path in paths if path.is_file()):
        try:
            expected = tool.deidentify(path.read_bytes()).content
        except Quarantined:
            continue
        if b"DICM" not in path.read_bytes()[:132]:
            continue
        dataset = pydicom.dcmread(path)
        before, meta = _held(dataset), copy.deepcopy(dataset.file_meta)
        assert tool.deidentify(dataset).content == expected, path
        assert _held(dataset) == before
        assert dataset.file_meta == meta
        compared += 1
    assert compared > 15
    made = image()
    made.add_new("PixelPaddingValue", "US or SS", 3)  # writing would settle it, in place
    tool.deidentify(made)
    assert made["PixelPaddingValue"].VR == "US or SS"


def test_a_data_set_made_in_memory_needs_no_file_meta():
    dataset = image(PatientName="Quillfeather^Marigold")
    assert not hasattr(dataset, "file_meta")
    result = memory().deidentify(dataset)
    assert not hasattr(dataset, "file_meta")
    assert result.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert result.dataset.PatientID == result.patient_id != PATIENT_ID
    assert result.dataset.PixelData == dataset.PixelData


def test_findings_hold_counts_and_flags_and_nothing_of_the_patient(tmp_path):
    dataset = image(Modality="US", PatientComments="Marigold came in")
    result = memory(pixels="keep").deidentify(dataset)
    assert result.removed["InstitutionName"] == 1
    assert result.actions["PatientID"] == {"Z": 1}
    assert result.review
    assert result.dataset.PatientIdentityRemoved == "NO"
    told = repr(result) + repr(result.actions) + str(result.removed) + repr(result.dataset)
    assert not [word for word in PLANTED if word in told]
    assert not [word for word in PLANTED if word.encode() in result.content]


def test_a_stream_is_read_from_where_it_stands(tmp_path):
    data = bytes_of(image(), tmp_path)
    expected = memory().deidentify(data).content
    stream = io.BytesIO(b"12345" + data)
    stream.seek(5)
    assert memory().deidentify(stream).content == expected
    with (tmp_path / "made").open("rb", buffering=0) as raw:
        assert memory().deidentify(raw).content == expected
    assert memory().deidentify(memoryview(data)).content == expected
    for wrong in (tmp_path / "made", str(tmp_path), None, io.StringIO("DICM")):
        with pytest.raises(TypeError):
            memory().deidentify(wrong)


def test_no_more_of_a_stream_is_read_than_may_be_accepted(monkeypatch):
    monkeypatch.setattr(deidentifier, "MOST_BYTES", 100)
    monkeypatch.setattr(instance, "MOST_BYTES", 100)

    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size=-1):
            self.taken += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(Quarantined) as caught:
        memory().deidentify(stream)
    assert caught.value.reason == Reason.TOO_LARGE
    assert stream.taken <= 101


def test_what_a_folder_would_quarantine_is_an_error_without_a_value(tmp_path, monkeypatch):
    data = bytes_of(image(), tmp_path)
    cases = {
        Reason.NOT_DICOM: b"Marigold",
        Reason.TRUNCATED: data[:-60],
        Reason.MISSING_IDENTITY: bytes_of(image(StudyInstanceUID=None), tmp_path),
        Reason.UNREADABLE: image(),
    }
    cases[Reason.UNREADABLE].file_meta = pydicom.dataset.FileMetaDataset()
    cases[Reason.UNREADABLE].file_meta.TransferSyntaxUID = "1.2.3.4"
    for reason, source in cases.items():
        with pytest.raises(Quarantined) as caught:
            memory().deidentify(source)
        assert caught.value.reason == reason
        assert isinstance(caught.value, DataError)
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert not [word for word in PLANTED if word in str(caught.value)]
        assert pickle.loads(pickle.dumps(caught.value)).reason == reason
    monkeypatch.setattr(walker, "clean", lambda *given, **more: 1 / 0)
    with pytest.raises(Quarantined, match="processing-failed"):
        memory().deidentify(data)


def test_the_self_check_is_the_last_word(tmp_path, monkeypatch):
    data = bytes_of(image(), tmp_path)
    monkeypatch.setattr(walker.actions, "_dates", lambda tag, vr, values, days, context: "\\".join(values))
    with pytest.raises(Quarantined, match="residual-identifier"):
        memory().deidentify(data)
    monkeypatch.setattr(selfcheck, "check", lambda *given: None)  # without it, the leak would come out
    assert b"20190314" in memory().deidentify(data).content


def test_settings_mean_what_they_mean_in_the_folder_stage(tmp_path):
    data = bytes_of(image(BurnedInAnnotation="YES", PatientAge="093Y"), tmp_path / "in")
    table = tmp_path / "lookup.csv"
    table.write_text(f"old_patient_id,new_patient_id\n{PATIENT_ID},STUDY-001\n")
    rules = tmp_path / "rules.toml"
    rules.write_text('SliceThickness = "X"\n')
    settings = {
        "pixels": "keep", "max_age": 80, "options": (Option.RETAIN_DEVICE, Option.RETAIN_FULL_DATES),
        "lookup": table, "missing_lookup": "quarantine",
    }  # fmt: skip
    clean(tmp_path, overrides=rules, **settings)
    [written] = (tmp_path / "out" / "images").rglob("*.dcm")
    result = memory(overrides={"SliceThickness": "X"}, **settings).deidentify(data)
    assert result.content == written.read_bytes()
    assert result.patient_id == "STUDY-001"
    with pytest.raises(Quarantined, match="not-in-lookup"):
        memory(**settings).deidentify(image(PatientID="somebody else"))
    named = memory(options=["retain-device"]).deidentify(image())
    assert named.content == memory(options=[Option.RETAIN_DEVICE]).deidentify(image()).content


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"key": b"short"}, PrivacyRefusal),
        ({"key": "north.key"}, ConfigError),
        ({"key": None}, ConfigError),
        ({"key": 7}, ConfigError),
        ({"overrides": Path("overrides.toml")}, ConfigError),
        ({"overrides": ["PatientSex"]}, ConfigError),
        ({"options": "retain-uids"}, ConfigError),
        ({"options": None}, ConfigError),
        ({"options": [3]}, ConfigError),
        ({"lookup": 3}, ConfigError),
        ({"max_age": "old"}, ConfigError),
        ({"site": 3}, ConfigError),
        ({"key": Path("absent.key")}, PrivacyRefusal),
        ({"site": " "}, ConfigError),
        ({"profile": "reserach"}, ConfigError),
        ({"options": ["retain-uid"]}, ConfigError),
        ({"overrides": {"PatientName": "K"}}, PrivacyRefusal),
        ({"overrides": {"PatientNam": "X"}}, ConfigError),
        ({"max_age": 120}, ConfigError),
        ({"pixels": "maybe"}, ConfigError),
        ({"issuers": "maybe"}, ConfigError),
        ({"missing_issuer": "maybe"}, ConfigError),
        ({"issuer_domains": 3}, ConfigError),
        ({"issuer_domains": Path("absent.toml")}, ConfigError),
        ({"registry": 3}, ConfigError),
        ({"registry": Path()}, LayoutError),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, monkeypatch, settings, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        memory(**settings)


def test_the_key_is_in_no_text_and_no_pickle(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    secret = b"fifty bytes that nobody else should ever read here"
    path = key_file(tmp_path, secret)
    tools = [memory(key=secret), memory(key=path), memory(key=KeyFile(path))]
    expected = {tool.deidentify(image()).content for tool in tools}
    assert len(expected) == 1
    cleaner = tools[0]._cleaner
    hidden = [secret, tools[0]._registry._key, *cleaner.resolver.pseudonyms._keys.values()]
    shown = repr(tools) + str(tools[0]) + caplog.text + repr(cleaner)
    assert not [part for part in hidden if part.decode("latin-1") in shown or part.hex() in shown]
    for tool in tools[1:]:
        carried = pickle.dumps(tool)
        assert not [part for part in hidden if part in carried]
        assert pickle.loads(carried).deidentify(image()).content in expected
    for copying in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled"):
            copying(tools[0])
        for holder in (cleaner, cleaner.resolver, cleaner.resolver.pseudonyms, SiteKey(secret, "north")):
            with pytest.raises(TypeError, match="pickled"):
                copying(holder)
    made = KeyFile.create(tmp_path / "new.key")
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert memory(key=made).deidentify(image()).content not in expected


def test_an_object_whose_key_was_refused_can_be_shown_and_not_be_pickled():
    half = Deidentifier.__new__(Deidentifier)
    with pytest.raises(PrivacyRefusal):
        half.__init__(key=b"too short", site="north")
    assert repr(half) == "Deidentifier(unusable)"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(half)


def test_two_issuers_of_one_id_are_never_merged_in_memory_or_in_a_folder(tmp_path):
    """D7: delivery X, delivery Y and both together; in memory and as folders, with one registry."""
    key, ids = key_file(tmp_path), []
    for number, issuer in enumerate(("A", "B"), start=1):
        dataset = image(number, study=number, IssuerOfPatientID=issuer)
        save(dataset, tmp_path / "in" / issuer / "a")
        save(dataset, tmp_path / "both" / issuer)
        rule = {"issuers": "separate", "registry": tmp_path / "apart"}
        clean(tmp_path, f"out{issuer}", f"in/{issuer}", **rule)
        [written] = (tmp_path / f"out{issuer}" / "images").rglob("*.dcm")
        result = memory(key=key, **rule).deidentify(dataset)
        assert result.content == written.read_bytes()
        ids.append(result.patient_id)
    assert ids[0] != ids[1]
    assert clean(tmp_path, "all", "both", **rule).patients == 2
    # Without a policy the second issuer is kept out, in every process and stage that shares the registry.
    assert clean(tmp_path, "firstA", "in/A").files_written == 1
    for attempt in (memory(key=key), memory(key=KEY)):
        with pytest.raises(Quarantined, match="issuer-conflict"):
            [attempt.deidentify(image(1, IssuerOfPatientID=issuer)) for issuer in "AB"]
    assert clean(tmp_path, "firstB", "in/B").quarantined == {"issuer-conflict": 1}
    assert clean(tmp_path, "first", "both").quarantined == {"issuer-conflict": 1}


def test_threads_share_one_object(tmp_path, cohort):
    paths = [p for p in sorted((cohort.root / "north" / "archive").rglob("*")) if p.is_file()][:24]
    tool = memory()
    shared = image(
        DerivationImageSequence=Sequence([item(PatientName="Quillfeather^Märigold", TextString="Märigold")])
    )

    def outcome(source):
        try:
            return tool.deidentify(source if isinstance(source, Dataset) else source.read_bytes()).content
        except Quarantined as refusal:
            return refusal.reason

    expected = [outcome(source) for source in (*paths, shared)]
    filters = warnings.filters[:]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(outcome, [*paths, shared] * 4))
    assert found == expected * 4
    assert warnings.filters == filters
