"""A head CT in a folder run: the face is gone and the header says so, for any names, order and workers."""

from __future__ import annotations

import copy
import json

import pydicom
import pytest
from deid_samples import images, key_file
from head_phantoms import Head, Scan, content, slices

from meninx.deid import Deidentifier, Quarantined
from meninx.deid.config import DeidConfig
from meninx.deid.stage import run


@pytest.fixture(scope="module")
def scan():
    return slices(Head(contrast="CT"), Scan(spacing=4.0, step=6.0))[0]


def written(folder, datasets, names="{:03d}.dcm"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(datasets):
        (folder / names.format(number)).write_bytes(content(dataset))
    return folder


def pixels(out):
    read = map(pydicom.dcmread, images(out))
    return {str(one.SOPInstanceUID): one.PixelData for one in read}


def test_a_head_is_defaced_whatever_the_names_and_the_workers_and_a_new_slice_decides_anew(tmp_path, scan):
    key = key_file(tmp_path)
    config = DeidConfig(key=key, site="north", defacing="head", workers=1)
    source = written(tmp_path / "a", scan[:-1])
    result = run(config, source, tmp_path / "out")
    assert (result.quarantined, result.series_defaced) == ({}, 1)
    one = pydicom.dcmread(images(tmp_path / "out")[0])
    codes = [item.CodeValue for item in one.DeidentificationMethodCodeSequence]
    assert "113102" in codes
    assert one.RecognizableVisualFeatures == "NO"
    record = json.loads((tmp_path / "out" / "deid.json").read_text())
    assert (record["defacing"], record["series_defaced"], "113102" in record["codes"]) == ("head", 1, True)
    originals = {dataset.PixelData for dataset in scan}
    assert any(clean not in originals for clean in pixels(tmp_path / "out").values())
    renamed = written(tmp_path / "b", scan[-2::-1], "z{:03d}")
    run(config.replace(workers=2), renamed, tmp_path / "again")
    assert pixels(tmp_path / "again") == pixels(tmp_path / "out")
    same = run(config, source, tmp_path / "out")
    assert same.files_resumed == len(scan) - 1
    written(source, scan)
    more = run(config, source, tmp_path / "out")
    assert (more.files_written, more.files_resumed) == (len(scan), 0)  # the plan is of other slices


def test_without_the_setting_nothing_is_declared(tmp_path, scan):
    result = run(
        DeidConfig(key=key_file(tmp_path), site="north", workers=1),
        written(tmp_path / "a", scan[:2]),
        tmp_path / "out",
    )
    one = pydicom.dcmread(images(tmp_path / "out")[0])
    assert result.series_defaced == 0
    assert "RecognizableVisualFeatures" not in one
    assert "113102" not in [item.CodeValue for item in one.DeidentificationMethodCodeSequence]


def test_a_few_slices_are_kept_out_and_one_in_memory_is_refused(tmp_path, scan):
    config = DeidConfig(key=key_file(tmp_path), site="north", defacing="head", workers=1)
    result = run(config, written(tmp_path / "a", scan[:3]), tmp_path / "out")
    assert result.quarantined == {"face-geometry": 3}
    assert result.series_face_refused == 1
    assert "1 kept out" in result.summary()
    with pytest.raises(Quarantined, match="face-geometry"):
        Deidentifier(key=bytes(range(32)), site="north", defacing="head").deidentify(content(scan[0]))


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [("PT", "1.2.840.10008.5.1.4.1.1.128"), ("NM", "1.2.840.10008.5.1.4.1.1.20"),
     ("CT", "1.2.840.10008.5.1.4.1.1.7"), ("DX", "1.2.840.10008.5.1.4.1.1.13.1.2")],
)  # fmt: skip
def test_a_head_of_another_kind_is_kept_out(tmp_path, scan, modality, sop_class):
    one = copy.deepcopy(scan[0])
    one.Modality, one.SOPClassUID, one.BodyPartExamined = modality, sop_class, "HEAD"
    deidentifier = Deidentifier(key=bytes(range(32)), site="n", defacing="head", pixels="keep")
    with pytest.raises(Quarantined) as refused:
        deidentifier.deidentify(content(one))
    assert str(refused.value.reason) in ("head-doubtful", "face-geometry", "unsupported-sop-class")
