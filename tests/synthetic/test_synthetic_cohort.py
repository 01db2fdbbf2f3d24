"""The synthetic cohort: what it shows, what it hides, and that the answer key tells the truth about both."""

from __future__ import annotations

import csv
import io
import re
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from pydicom.uid import DeflatedExplicitVRLittleEndian

from meninx import synthetic
from meninx.core.errors import ConfigError, DataError, LayoutError, UsageError
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.randomness import child
from meninx.synthetic import FINDINGS, PhantomConfig, anatomy, chest, plants, read_answer_key, write_archives
from meninx.synthetic.key import NOT_BYTES, encodings

# --- the radiographs ----------------------------------------------------------------------------------------


def body(index=0, sex="F", age=50):
    return anatomy.random_anatomy(5, index, sex, age)


def change(finding, index=0):
    """Return the same image with and without a finding, as floats."""
    ill = chest.radiograph(body(index), {finding: True}, child(1, index), 96)
    well = chest.radiograph(body(index), {}, child(1, index), 96)
    return ill, ill.array.astype(float) - well.array.astype(float)


def test_a_radiograph_is_twelve_bits_and_uses_them():
    image = chest.radiograph(body(), {}, child(1), 96)
    assert image.array.dtype == np.uint16
    assert image.array.shape == (96, 96)
    assert image.array.max() <= 4095
    assert image.array.std() > 400
    assert image.mask.sum() == 0


def test_lungs_are_darker_than_mediastinum_and_abdomen():
    image = chest.radiograph(body(), {}, child(1), 96).array
    lung, middle, belly = image[35:55, 20:32].mean(), image[40:60, 46:50].mean(), image[82:92, 20:70].mean()
    assert lung + 600 < middle
    assert lung + 600 < belly


@pytest.mark.parametrize(("finding", "sign"), [("effusion", 1), ("nodule", 1)])
def test_a_finding_adds_density_somewhere(finding, sign):
    grew = [sign * np.sort(change(finding, index)[1], axis=None)[-60:].mean() for index in range(6)]
    assert min(grew) > 250


def test_air_is_dark_inside_the_pneumothorax_mask_and_nothing_changes_far_from_it():
    for index in range(6):
        image, difference = change("pneumothorax", index)
        inside = image.mask.astype(bool)
        assert 40 < inside.sum() < 96 * 96 * 0.2
        assert np.median(difference[inside]) < -60
        half = slice(0, 40) if inside[:, 48:].sum() > inside[:, :48].sum() else slice(56, 96)
        assert np.abs(np.median(difference[:, half])) < 5


def test_two_images_of_a_patient_resemble_each_other_more_than_two_patients():
    data = synthetic.radiographs(60, 64, 4, prevalence=0.0)
    flat = data.images.reshape(60, -1).astype(float)
    flat -= flat.mean(axis=0)
    likeness = np.corrcoef(flat)
    ids = np.array(data.patient_ids)
    same = (ids[:, None] == ids[None]) & ~np.eye(60, dtype=bool)
    assert likeness[same].mean() > likeness[ids[:, None] != ids[None]].mean() + 0.1


def test_sex_and_age_shape_the_anatomy():
    def mean(field, sex, age):
        return np.mean([field(anatomy.random_anatomy(3, index, sex, age)) for index in range(80)])

    assert mean(lambda one: one.width, "M", 50) > mean(lambda one: one.width, "F", 50)
    assert mean(lambda one: one.breast, "F", 50) > 0 == mean(lambda one: one.breast, "M", 50)
    assert mean(lambda one: one.heart[2] / one.width, "F", 80) > mean(
        lambda one: one.heart[2] / one.width, "F", 30
    )
    assert mean(lambda one: one.rib_density, "F", 80) < mean(lambda one: one.rib_density, "F", 30)


def test_a_smaller_draw_is_the_beginning_of_a_larger_one():
    few, many = synthetic.radiographs(5, 32, 9), synthetic.radiographs(9, 32, 9)
    assert np.array_equal(few.images, many.images[:5])
    assert few.patient_ids == many.patient_ids[:5]
    assert all(len(values) == 5 for values in few.labels.values())


def test_nothing_drawn_is_an_empty_stack():
    assert synthetic.radiographs(0, 32).images.shape == (0, 32, 32)
    assert synthetic.volumes(0, (16, 16, 8)).images.shape == (0, 16, 16, 8)


def test_volumes_have_an_organ_and_lesions_inside_it():
    data = synthetic.volumes(6, (48, 40, 24), 2)
    assert data.images.shape == data.labels.shape == (6, 48, 40, 24)
    assert data.images.dtype == np.int16
    for image, labels in zip(data.images, data.labels, strict=True):
        assert 0.02 < (labels > 0).mean() < 0.3
        assert 80 < image[labels == 1].mean() < 140
        assert image[0, 0].mean() < -950
    assert 1 <= sum((labels == 2).any() for labels in data.labels) <= 6


def test_lesions_can_be_forced():
    assert (synthetic.volume(0, 1, lesion=True).labels == 2).any()
    assert not (synthetic.volume(0, 1, lesion=False).labels == 2).any()


# --- the prepared dataset -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(TaskKind))
def test_a_written_dataset_reads_back(tmp_path, task):
    written = synthetic.write_dataset(tmp_path, task=task, patients=18, size=32)
    read = Manifest.read(tmp_path)
    assert read.cases == written.cases
    assert read.info == written.info
    assert read.info.synthetic
    assert read.sites == ("east", "north", "south")
    assert all(len(read.split(name).patients) >= 3 for name in ("train", "valid", "test"))
    for case in read.cases:
        with Pillow.open(tmp_path / case.image) as image:
            assert image.size == (32, 32)
            assert not getattr(image, "text", {})
        assert bool(case.mask) == (task is TaskKind.SEGMENTATION)
    assert set(read.attribute("sex")) == {"F", "M"}
    if task is TaskKind.MULTICLASS:
        assert (read.targets().sum(axis=1) == 1).all()


def test_a_written_volume_dataset_reads_back(tmp_path):
    import nibabel

    synthetic.write_dataset(tmp_path, task="segmentation", patients=9, size=24, spatial_dims=3)
    read = Manifest.read(tmp_path)
    assert read.info.labels == ("organ", "lesion")
    assert all(len(read.split(name)) for name in ("train", "valid", "test"))
    for case in read.cases:
        image, mask = nibabel.load(tmp_path / case.image), nibabel.load(tmp_path / case.mask)
        assert image.shape == mask.shape == read.info.size
        assert np.array_equal(image.affine, mask.affine)
        assert np.allclose(image.header.get_zooms(), read.info.spacing_mm)
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}


def test_a_dataset_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="spatial_dims"):
        synthetic.write_dataset(tmp_path, task="multilabel", spatial_dims=3)
    with pytest.raises(ConfigError, match="did you mean"):
        synthetic.write_dataset(tmp_path, task="multilable")


# --- the archives -------------------------------------------------------------------------------------------


def content(path):
    """Return the bytes of a file, the data set inflated."""
    raw = path.read_bytes()
    if raw[128:132] != b"DICM":
        return raw
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return raw
    start = 144 + meta.FileMetaInformationGroupLength
    return raw[:start] + zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw[start:])


def images(cohort, form="dx"):
    return [one for one in cohort.key.files if one.form == form and not one.quarantine]


def read(cohort, one):
    return pydicom.dcmread(cohort.root / one.hospital / one.file)


def resolve(data, path):
    """Return the value of an element by the path that the answer key gives."""
    if path.startswith("file meta/"):
        data, path = data.file_meta, path.removeprefix("file meta/")
    for part in path.split("/"):
        name, number = re.fullmatch(r"(.+?)(?:\[(\d+)\])?", part).groups()
        tag = int(name[1:5] + name[6:10], 16) if name.startswith("(") else name
        value = data[tag].value
        data = value if number is None else value[int(number)]
    return data


def test_the_key_lists_exactly_the_files_of_the_archives(cohort):
    on_disk = {
        (path.relative_to(cohort.root).parts[0], "/".join(path.relative_to(cohort.root).parts[1:]))
        for path in cohort.root.glob("*/archive/**/*")
        if path.is_file()
    }
    assert on_disk == {(one.hospital, one.file) for one in cohort.key.files}
    assert len(on_disk) == len(cohort.key.files)


def test_every_planted_text_is_in_its_file(cohort):
    for one in cohort.key.files:
        raw = content(cohort.root / one.hospital / one.file)
        for path, kind, value in one.plants:
            if kind not in NOT_BYTES:
                assert any(form in raw for form in encodings(value)), (one.form, path, kind)


@pytest.mark.filterwarnings("ignore:VR lookup failed")  # unknown tags in implicit VR are meant to be there
def test_every_planted_text_is_at_its_path(cohort):
    special = {"preamble", "file name", "PixelData", "PixelData bit 15", "text"}
    seen = 0
    for one in cohort.key.files:
        if one.form == "text" or one.quarantine in ("truncated", "no_preamble", "encapsulated"):
            continue
        data = read(cohort, one)
        for path, kind, value in one.plants:
            if path in special or kind in NOT_BYTES:
                continue
            found = resolve(data, path)
            forms = encodings(value)
            raw = found if isinstance(found, bytes) else str(found).encode()
            assert any(form in raw for form in forms), (one.form, path, kind)
            seen += 1
    assert seen > 3000


def test_the_places_that_need_planting_are_planted(cohort):
    places = {path for one in cohort.key.files for path, _, _ in one.plants}
    wanted = {
        "PatientName",
        "OtherPatientIDsSequence[0]/PatientID",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "ImageComments",
        "RequestAttributesSequence[0]/ScheduledProtocolCodeSequence[0]/ProtocolContextSequence[0]/ContentItemModifierSequence[0]/PersonName",
        "(0010,9F01)",
        "(0010,9F11)",
        "ReferencedPatientSequence[0]/PatientID",
        "RetrieveURL",
        "TextValue",
        "InterpretationText",
        "OriginalAttributesSequence[0]/ModifiedAttributesSequence[0]/PatientName",
        "(0033,1001)",
        "(0029,1110)",
        "(0029,1112)[0]/PatientName",
        "(0029,1112)[0]/(0031,1002)",
        "(0019,1055)",
        "file meta/SourceApplicationEntityTitle",
        "file meta/PrivateInformation",
        "preamble",
        "DataSetTrailingPadding",
        "file name",
        "(6000,3000)",
        "(6002,0022)",
        "(5000,2500)",
        "IconImageSequence[0]/PixelData",
        "PixelData",
        "PixelData bit 15",
        "ContentSequence[0]/PersonName",
        "EncapsulatedDocument",
        "GraphicAnnotationSequence[0]/TextObjectSequence[0]/UnformattedTextValue",
        "DirectoryRecordSequence[0]/PatientName",
        "text",
    }
    assert wanted <= places
    for hospital in cohort.config.hospitals:
        assert (
            len({path for one in cohort.key.files if one.hospital == hospital for path, _, _ in one.plants})
            > 80
        )


def test_every_image_decodes_and_is_a_valid_instance(cohort):
    syntaxes, photometric = set(), set()
    for one in images(cohort) + images(cohort, "ct"):
        data = read(cohort, one)
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID == one.sop_uid
        assert (data.StudyInstanceUID, data.SeriesInstanceUID) == (one.study_uid, one.series_uid)
        assert pydicom.uid.UID(one.sop_uid).is_valid
        assert data.pixel_array.shape == (data.Rows, data.Columns)
        syntaxes.add(data.file_meta.TransferSyntaxUID)
        photometric.add(data.PhotometricInterpretation)
    assert len(syntaxes) == 6
    assert photometric == {"MONOCHROME1", "MONOCHROME2"}


def test_digital_x_rays_have_every_required_attribute(cohort):
    filled = [
        "SOPClassUID",
        "Modality",
        "PresentationIntentType",
        "ImageType",
        "ImageLaterality",
        "PixelIntensityRelationship",
        "RescaleType",
        "PixelIntensityRelationshipSign",
        "RescaleIntercept",
        "RescaleSlope",
        "PresentationLUTShape",
        "LossyImageCompression",
        "BurnedInAnnotation",
        "ImagerPixelSpacing",
        "WindowCenter",
        "WindowWidth",
        "PatientOrientation",
        "SamplesPerPixel",
        "HighBit",
        "PixelRepresentation",
    ]
    present = [
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "StudyID",
        "AccessionNumber",
        "SeriesNumber",
        "InstanceNumber",
        "Manufacturer",
        "AnatomicRegionSequence",
        "DetectorType",
        "AcquisitionContextSequence",
    ]
    for one in images(cohort):
        data = read(cohort, one)
        assert all(data[keyword].value not in (None, "") for keyword in filled)
        assert all(keyword in data for keyword in present)
        assert data.PresentationLUTShape == (
            "INVERSE" if data.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
        )


def test_pixels_are_the_drawn_image_whatever_the_encoding(cohort):
    table = {row["SOPInstanceUID"]: row for row in labels(cohort, "north")}
    for one in images(cohort):
        if (
            one.hospital != "north"
            or one.boxes
            or any(path == "PixelData bit 15" for path, _, _ in one.plants)
        ):
            continue
        stored = read(cohort, one).pixel_array
        shown = 4095 - stored if read(cohort, one).PhotometricInterpretation == "MONOCHROME1" else stored
        assert shown[:3, 30:34].mean() > shown[-3:, :1].mean() - 4095
        mask = np.asarray(Pillow.open(cohort.root / "north" / table[one.sop_uid]["mask"]))
        assert mask.shape == shown.shape
        assert mask.any() == (table[one.sop_uid]["pneumothorax"] == "1")
        assert shown[25:40, 12:22].mean() < shown[28:40, 30:34].mean()


def labels(cohort, hospital):
    return list(csv.DictReader(io.StringIO((cohort.root / hospital / "labels.csv").read_text())))


def test_label_tables_name_every_image_once_by_original_identifiers(cohort):
    for hospital in cohort.config.hospitals:
        rows = labels(cohort, hospital)
        here = [one for one in images(cohort) if one.hospital == hospital]
        assert sorted(row["SOPInstanceUID"] for row in rows if row["SOPInstanceUID"]) == sorted(
            one.sop_uid for one in here
        )
        series = {one.series_uid for one in images(cohort, "ct") if one.hospital == hospital}
        assert {row["SeriesInstanceUID"] for row in rows if not row["SOPInstanceUID"]} == series
        assert all((cohort.root / hospital / row["mask"]).is_file() for row in rows)
        truths = {truth.patient: truth for truth in cohort.key.patients}
        by_uid = {row["SOPInstanceUID"]: row for row in rows}
        for one in here:
            assert by_uid[one.sop_uid]["PatientID"] == truths[one.patient].patient_id
            shown = {name for name in FINDINGS if by_uid[one.sop_uid][name] == "1"}
            assert shown <= set(truths[one.patient].findings)


def test_burned_in_text_lies_in_its_boxes(cohort):
    burned = [one for one in images(cohort) if one.boxes]
    assert len(burned) >= 3
    for one in images(cohort):
        data = read(cohort, one)
        assert data.BurnedInAnnotation == ("YES" if one.boxes else "NO")
        ink = data.pixel_array == (0 if data.PhotometricInterpretation == "MONOCHROME1" else 4095)
        for left, top, right, bottom in one.boxes:
            assert ink[top:bottom, left:right].mean() > 0.08
            assert (right - left) > 20


def test_awkward_patients_are_there(cohort):
    truths = cohort.key.patients
    shared = [truth.hospital for truth in truths if truth.patient_id == "0000123"]
    assert len(shared) == len(set(shared)) == 3
    assert max(truth.age for truth in truths) == 93
    charsets = {str(read(cohort, one).get("SpecificCharacterSet", "")) for one in images(cohort)}
    assert len(charsets) >= 4
    padded = [one for one in images(cohort) if one.patient == "north/1"]
    written = {
        content(cohort.root / one.hospital / one.file).count(b"  " + truths[3].patient_id.encode()) > 0
        for one in padded
    }
    assert written == {True, False}
    assert any("山寺野" in plant.value for plant in cohort.key.plants)


def test_no_name_is_a_word_that_a_clean_file_may_hold(cohort):
    clean = (
        "CHEST PA ADULT ABDOMEN VENOUS DERIVED PRIMARY ORIGINAL AXIAL IDENTITY INVERSE Chest Finding "
        "archive images PHANTOM_1"
    )
    assert not any(value in clean for value in cohort.key.strings())
    assert all(len(value) >= 2 for value in cohort.key.strings())


def test_files_to_keep_out_are_broken_in_the_way_that_the_key_says(cohort):
    reasons = {reason for (hospital, _), reason in cohort.key.quarantine.items() if hospital == "south"}
    assert reasons == {"truncated", "not_dicom", "dicomdir", "encapsulated", "duplicate", "no_preamble"}
    for (hospital, file), reason in cohort.key.quarantine.items():
        path = cohort.root / hospital / file
        if reason in ("not_dicom", "no_preamble"):
            assert path.read_bytes()[128:132] != b"DICM"
        if reason == "no_preamble":
            assert pydicom.dcmread(path, force=True).Modality == "DX"
        if reason == "duplicate":
            copies = [one for one in cohort.key.files if one.sop_uid == cohort.key.of(hospital, file).sop_uid]
            assert len(copies) == 2
        if reason == "truncated":
            data = pydicom.dcmread(path)
            assert len(data.get("PixelData", b"")) < data.Rows * data.Columns * 2


def test_safe_private_elements_are_there_and_listed(cohort):
    values = {(plant.path, plant.value) for plant in cohort.key.safe if plant.kind == "safe_private"}
    assert ("(0019,xx0C) SIEMENS MR HEADER", "1000") in values
    for one in images(cohort):
        if any(kind == "safe_private" for _, kind, _ in one.safe):
            data = read(cohort, one)
            assert data.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value in (1000, b"1000")
            assert str(data.private_block(0x2001, "Philips Imaging DD 001")[0x0B].value) in (
                "TRANSVERSAL",
                "b'TRANSVERSAL '",
            )


def test_ct_series_read_as_a_volume_on_which_the_mask_lies(cohort):
    nibabel = pytest.importorskip("nibabel")
    dicom = pytest.importorskip("meninx.imaging.dicom_image")
    kinds = set()
    for hospital in cohort.config.hospitals:
        row = next(row for row in labels(cohort, hospital) if not row["SOPInstanceUID"])
        slices = [one for one in images(cohort, "ct") if one.hospital == hospital]
        assert len(slices) == cohort.config.ct_size[2]
        volume = dicom.read_series([cohort.root / hospital / one.file for one in slices])
        mask = nibabel.load(cohort.root / hospital / row["mask"])
        assert volume.size == mask.shape == cohort.config.ct_size
        assert np.allclose(volume.affine, mask.affine, atol=1e-3)
        organ = np.asarray(mask.dataobj) == 1
        assert 70 < np.median(volume.array[0][organ]) < 150
        first = read(cohort, slices[0])
        kinds.add((round(float(first.ImageOrientationPatient[0]), 3), first.file_meta.TransferSyntaxUID.name))
    assert len(kinds) == 3


def test_the_key_survives_its_file(cohort):
    assert read_answer_key(cohort.root) == cohort.key
    assert read_answer_key(cohort.root / "answer_key.json") == cohort.key


def test_a_missing_or_foreign_key_is_named(tmp_path):
    (tmp_path / "answer_key.json").write_text("[]")
    with pytest.raises(LayoutError, match="answer key"):
        read_answer_key(tmp_path)
    with pytest.raises(DataError, match="answer key"):
        read_answer_key(tmp_path / "none.json")


def tree(root: Path):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_settings_write_the_same_bytes(tmp_path):
    config = PhantomConfig(patients=4, hospitals=("a", "b"), size=64, ct_patients=1, ct_size=(16, 16, 8))
    write_archives(config, tmp_path / "one")
    write_archives(config, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_folder_with_files_is_not_written_unless_asked(tmp_path):
    config = PhantomConfig(patients=1, hospitals=("a",), size=64, ct_patients=0)
    write_archives(config, tmp_path)
    with pytest.raises(UsageError, match="empty folder"):
        write_archives(config, tmp_path)
    write_archives(config, tmp_path, overwrite=True)


def test_without_planting_only_the_plain_attributes_identify(tmp_path):
    config = PhantomConfig(
        patients=2, hospitals=("a",), size=64, ct_patients=0, planted=False, burned_in_fraction=0.0
    )
    key = write_archives(config, tmp_path)
    assert not key.quarantine
    assert {one.form for one in key.files} == {"dx"}
    assert {path for one in key.files for path, _, _ in one.plants} >= {"PatientName", "PatientID"}
    assert not any("Sequence" in path or "(" in path for one in key.files for path, _, _ in one.plants)
    assert not any(one.boxes for one in key.files)


@pytest.mark.parametrize(
    "settings",
    [
        {"attribute_correlation": 1.5},
        {"hospitals": ("a", "a")},
        {"hospitals": ("../a",)},
        {"patients": 2},
        {"size": 32},
        {"ct_patients": 99},
        {"ct_size": (4, 4, 4)},
        {"prevalence": -0.1},
    ],
)
def test_settings_that_make_no_cohort_are_refused(settings):
    with pytest.raises(ConfigError):
        PhantomConfig(**settings)


def test_pictures_of_text_are_in_the_header_and_in_spare_bits(cohort):
    seen = set()
    for one in images(cohort):
        for path, kind, value in one.plants:
            if kind != "bitmap":
                continue
            data = read(cohort, one)
            if path == "PixelData bit 15":
                bits = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns) >> 15
            elif path.startswith("Icon"):
                bits = np.frombuffer(data.IconImageSequence[0].PixelData, np.uint8).reshape(32, 64) == 255
            else:
                bits = np.unpackbits(np.frombuffer(resolve(data, path), np.uint8), bitorder="little")
                bits = bits[: data.Rows * data.Columns].reshape(data.Rows, data.Columns)
            words = value.split("/")
            assert np.array_equal(bits, plants.bitmap(words, *bits.shape)[0])
            seen.add(path)
    assert len(seen) == 4
