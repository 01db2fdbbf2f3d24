from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import prepare_fixtures as make
import pytest

from meninx.core.errors import ConfigError, DataError, Interrupted, LayoutError, RunLocked, UsageError
from meninx.core.manifest import Manifest
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.imaging import png
from meninx.prepare.config import PrepareConfig
from meninx.prepare.stage import PrepareResult, run

CSV = PrepareConfig.of(reader="csv", name="toy", label_columns=("effusion", "nodule"), split="exact")


def with_(config: PrepareConfig, **changes) -> PrepareConfig:

    return config.replace(**changes)


def snapshot(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_a_table_becomes_a_dataset_folder(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=10)
    result = run(CSV, root, tmp_path / "out")
    assert isinstance(result, PrepareResult)
    assert (result.cases, result.patients, result.splits) == (20, 10, {"test": 4, "train": 14, "valid": 2})
    assert (result.labels, result.skipped) == ({"effusion": 10, "nodule": 18}, {})
    data = Manifest.read(tmp_path / "out")
    assert data.info.size == (12, 10)
    assert data.info.intensity.source == "format"
    for case in data.cases:
        original = root / "images" / _key(tmp_path / "out", case.case_id).removeprefix("images/")
        assert np.array_equal(png.read(data.root / case.image).array, png.read(original).array)


def _key(out: Path, case_id: str) -> str:
    with (out / "private" / "cases.csv").open() as stream:
        return {row["case_id"]: row["key"] for row in csv.DictReader(stream)}[case_id]


def test_identifiers_stay_in_the_private_room(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    assert (tmp_path / "out" / "private").stat().st_mode & 0o777 == 0o700
    public = {
        name: content
        for name, content in snapshot(tmp_path / "out").items()
        if not name.startswith("private/")
    }
    assert not any(
        b"p0_0" in content or b",P0," in content or "p0_0" in name for name, content in public.items()
    )
    summary = json.loads(public["prepare.json"])
    assert summary["attributes"] == {"age": {"40-49": 12}, "sex": {"F": 6, "M": 6}}
    assert str(tmp_path) not in json.dumps(summary)


def test_listing_order_changes_nothing(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "a")
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    run(CSV, root, tmp_path / "b")
    assert (tmp_path / "a" / "manifest.csv").read_text() == (tmp_path / "b" / "manifest.csv").read_text()


def test_sizes_bits_and_colours(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(with_(CSV, size=(8,), bits=16), root, tmp_path / "a")
    data = Manifest.read(tmp_path / "a")
    image = png.read(data.root / data.cases[0].image)
    assert (image.array.shape, image.array.dtype, data.info.intensity.window) == (
        (1, 8, 8),
        np.uint16,
        (0.0, 65535.0),
    )
    assert image.array.max() > 40000
    run(with_(CSV, size=(8, 6), color="rgb"), root, tmp_path / "b")
    data = Manifest.read(tmp_path / "b")
    assert png.read(data.root / data.cases[0].image).array.shape == (3, 8, 6)
    assert (data.info.channels, data.info.size) == (3, (8, 6))


def test_padding_keeps_proportions_of_image_and_mask(tmp_path):
    root = make.make_csv(tmp_path / "in", masks=True)
    config = PrepareConfig.of(
        reader="csv", name="toy", mask_folder="masks", mask_labels=("lung",), size=(12,), aspect="pad"
    )
    run(config, root, tmp_path / "out")
    data = Manifest.read(tmp_path / "out")
    for case in data.cases:
        image, mask = png.read(data.root / case.image).array[0], png.read(data.root / case.mask).array[0]
        assert (image[:, 0] == 0).all()
        assert (image[:, -1] == 0).all()
        assert np.array_equal(mask[:, 1:11], image[:, 1:11] > 127)


def test_training_statistics_are_those_of_the_training_split_and_say_so(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=10)
    run(with_(CSV, intensity="train"), root, tmp_path / "out")
    data = Manifest.read(tmp_path / "out")
    values = np.stack([png.read(data.root / case.image).array for case in data.split("train").cases]).astype(
        float
    )
    intensity = data.info.intensity
    assert intensity.source == "train"
    assert intensity.shift == pytest.approx(values.mean())
    assert intensity.scale == pytest.approx(values.std())


def test_dry_run_counts_and_writes_nothing(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=10)
    (root / "images" / "p0_0.png").unlink()
    dry = run(with_(CSV, dry_run=True), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    real = run(CSV, root, tmp_path / "out")
    assert (dry.cases, dry.splits, dry.skipped, dry.labels) == (
        real.cases,
        real.splits,
        real.skipped,
        real.labels,
    )
    assert dry.skipped == {"missing file": 1}


def test_a_used_output_folder_is_never_touched_unasked(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(UsageError, match="resume"):
        run(CSV, root, tmp_path / "out")
    with pytest.raises(UsageError, match="made with other settings"):
        run(with_(CSV, resume=True, seed=1), root, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files"):
        run(with_(CSV, overwrite=True), root, tmp_path / "other")


def test_resume_of_a_whole_dataset_gives_the_same_bytes_and_redoes_nothing(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    assert run(with_(CSV, resume=True), root, tmp_path / "out").reused == 12
    assert snapshot(tmp_path / "out") == before


def test_resume_redoes_changed_sources_and_lost_files(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    make.write_picture(root / "images" / "p0_0.png", make.picture(999))
    next((tmp_path / "out" / "images").iterdir()).unlink()
    assert run(with_(CSV, resume=True), root, tmp_path / "out").reused in (10, 11)
    fresh = run(CSV, root, tmp_path / "fresh")
    assert fresh.cases == 12
    ours, theirs = snapshot(tmp_path / "out"), snapshot(tmp_path / "fresh")
    assert {k: v for k, v in ours.items() if "private" not in k} == {
        k: v for k, v in theirs.items() if "private" not in k
    }


class StopsAt(Silent):
    def __init__(self, count: int) -> None:
        self.left = count

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_interruption_leaves_no_dataset_and_resume_ends_like_an_undisturbed_run(tmp_path):
    root = make.make_csv(tmp_path / "in")
    with pytest.raises(Interrupted, match="same command again"):
        run(CSV, root, tmp_path / "out", progress=StopsAt(5))
    assert not (tmp_path / "out" / "prepare.json").exists()
    result = run(with_(CSV, resume=True), root, tmp_path / "out")
    assert result.reused == 5
    run(CSV, root, tmp_path / "fresh")
    ours, theirs = snapshot(tmp_path / "out"), snapshot(tmp_path / "fresh")
    assert ours == theirs


def test_a_line_cut_short_in_the_journal_is_no_harm(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    journal = tmp_path / "out" / "private" / "journal.jsonl"
    journal.write_text(journal.read_text()[:-40])
    assert run(with_(CSV, resume=True), root, tmp_path / "out").reused == 11


def test_overwrite_replaces_and_removes_what_is_no_case_any_more(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    result = run(with_(CSV, overwrite=True, require=("sex=F",)), root, tmp_path / "out")
    assert (result.cases, result.reused) == (6, 6)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 6
    assert run(with_(CSV, overwrite=True, size=(8,)), root, tmp_path / "out").reused == 0


def test_a_second_process_is_refused(tmp_path):
    root = make.make_csv(tmp_path / "in")
    run(CSV, root, tmp_path / "out")
    with Run(tmp_path / "out").lock(), pytest.raises(RunLocked):
        run(with_(CSV, resume=True), root, tmp_path / "out")


def test_workers_change_nothing(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=12)
    run(CSV, root, tmp_path / "a")
    run(with_(CSV, workers=2), root, tmp_path / "b")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_unusable_files_are_counted_with_their_rows_and_strict_stops(tmp_path):
    root = make.make_csv(tmp_path / "in")
    (root / "images" / "p0_0.png").unlink()
    (root / "images" / "p0_1.png").write_bytes(b"no picture")
    make.write_picture(root / "images" / "p1_0.png", np.full((12, 10), 7, np.uint8))
    lenient = CSV.replace(allow_missing=0.1)
    result = run(lenient, root, tmp_path / "out")
    assert result.cases == 9
    assert result.skipped == {"missing file": 1, "one value in the whole image": 1, "unreadable image": 1}
    checks = json.loads((tmp_path / "out" / "prepare.json").read_text())["checks"]
    assert checks["missing file"] == {"count": 1, "rows": ["labels.csv, row 2"]}
    with pytest.raises(DataError, match=r"labels.csv, row \d") as caught:
        run(with_(lenient, strict=True), root, tmp_path / "strict")
    assert "p0" not in str(caught.value)


def test_nan_voxels_are_left_out(tmp_path):
    root = make.make_pairs(tmp_path / "in")
    values = np.random.default_rng(0).normal(size=(6, 8, 5)).astype(np.float32)
    values[0, 0, 0] = np.nan
    make.write_volume(root / "images" / "case_0.nii.gz", values)
    result = run(PrepareConfig.of(reader="pairs", name="toy", mask_labels=("a", "b")), root, tmp_path / "out")
    assert result.skipped["NaN or infinite pixels"] == 1


def test_copies_of_one_patient_are_dropped_and_of_two_patients_refused(tmp_path):
    root = make.make_csv(tmp_path / "in")
    shutil.copy(root / "images" / "p0_0.png", root / "images" / "p0_1.png")
    result = run(CSV, root, tmp_path / "a")
    assert (result.cases, result.skipped) == (11, {"duplicate image": 1})
    assert len(list((tmp_path / "a" / "images").iterdir())) == 11
    shutil.copy(root / "images" / "p0_0.png", root / "images" / "p3_0.png")
    with pytest.raises(DataError, match=r"two patients: labels.csv, row \d and labels.csv, row \d"):
        run(CSV, root, tmp_path / "b")
    result = run(with_(CSV, duplicates="drop"), root, tmp_path / "c")
    assert result.skipped == {"image of two patients": 3}


def test_masks_of_another_shape_or_with_unnamed_values_stop_the_work(tmp_path):
    root = make.make_csv(tmp_path / "in", masks=True)
    config = PrepareConfig.of(reader="csv", name="toy", mask_folder="masks", mask_labels=("lung",))
    make.write_picture(root / "masks" / "p0_0.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match=r"image's shape, got 9x9 for 12x10 \(labels.csv, row 2\)"):
        run(config, root, tmp_path / "a")
    make.write_picture(root / "masks" / "p0_0.png", np.full((12, 10), 3, np.uint8))
    with pytest.raises(DataError, match=r"mask values 0 to 1, got values from 0 to 3 \(labels.csv, row 2\)"):
        run(config, root, tmp_path / "b")


def test_cases_without_mask_are_skipped_or_empty(tmp_path):
    root = make.make_csv(tmp_path / "in", masks=True)
    (root / "masks" / "p0_0.png").unlink()
    config = PrepareConfig.of(reader="csv", name="toy", mask_folder="masks", mask_labels=("lung",))
    assert run(config, root, tmp_path / "a").skipped == {"no mask": 1}
    result = run(with_(config, mask_empty="zero"), root, tmp_path / "b")
    assert (result.cases, result.labels) == (12, {"lung": 11})


def test_empty_classes_are_told_and_strict_refuses_them(tmp_path):
    root = make.make_csv(tmp_path / "in", patients=1)
    run(CSV, root, tmp_path / "out")
    checks = json.loads((tmp_path / "out" / "prepare.json").read_text())["checks"]
    assert checks["label that never occurs"]["rows"] == ["label 'effusion'", "label 'nodule'"]
    assert checks["empty split"]["rows"] == ["test", "valid"]
    with pytest.raises(DataError, match="a label occurs in no case"):
        run(with_(CSV, strict=True), root, tmp_path / "strict")


def test_volumes_are_resampled_with_their_labels(tmp_path):
    root = make.make_pairs(tmp_path / "in")
    config = PrepareConfig.of(reader="pairs", name="toy", mask_labels=("a", "b"), spacing_mm=(2.0,))
    run(config, root, tmp_path / "out")
    data = Manifest.read(tmp_path / "out")
    assert (data.info.spatial_dims, data.info.size, data.info.spacing_mm) == (3, (6, 8, 10), (2.0, 2.0, 2.0))
    image, mask = nib.load(data.root / data.cases[0].image), nib.load(data.root / data.cases[0].mask)
    assert np.array_equal(image.affine, mask.affine)
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 1, 2}


def test_window_of_volumes_keeps_units_and_is_public(tmp_path):
    root = make.make_msd(tmp_path / "in")
    run(PrepareConfig.of(reader="msd", name="toy", window=(-150.0, 200.0)), root, tmp_path / "out")
    data = Manifest.read(tmp_path / "out")
    intensity = data.info.intensity
    assert (intensity.window, intensity.shift, intensity.scale, intensity.source) == (
        (-150.0, 200.0),
        25.0,
        175.0,
        "standard",
    )
    values = np.asarray(nib.load(data.root / data.cases[0].image).dataobj)
    assert (values.dtype, values.min(), values.max()) == (np.int16, -150, 200)


def test_dicom_radiographs_keep_their_pseudonyms(tmp_path):
    make.make_dicom(tmp_path / "north")
    result = run(
        PrepareConfig.of(reader="dicom", name="toy", table="../north.csv"),
        tmp_path / "north",
        tmp_path / "out",
    )
    data = Manifest.read(tmp_path / "out")
    assert (result.cases, data.patients) == (8, tuple(f"NORTH-{n}" for n in range(4)))
    assert data.sites == ("north",)
    assert data.info.intensity.window == (0.0, 255.0)


def test_an_archive_with_a_damaged_record_is_refused(tmp_path):
    make.make_dicom(tmp_path / "north")
    (tmp_path / "north" / "deid.json").write_text('{"site": "nor')
    with pytest.raises(DataError, match=r"deid\.json"):
        run(
            PrepareConfig.of(reader="dicom", name="toy", table="../north.csv"),
            tmp_path / "north",
            tmp_path / "out",
        )


def test_several_clean_folders_are_several_sites(tmp_path):
    for site in ("north", "south"):
        make.make_dicom(tmp_path / "clean" / site, site=site)
    config = PrepareConfig.of(reader="dicom", name="toy", table="../{site}.csv")
    by_parent = run(config, tmp_path / "clean", tmp_path / "a")
    by_list = run(config, [tmp_path / "clean" / "south", tmp_path / "clean" / "north"], tmp_path / "b")
    assert by_parent.sites == by_list.sites == {"north": 8, "south": 8}
    assert (tmp_path / "a" / "manifest.csv").read_text() == (tmp_path / "b" / "manifest.csv").read_text()


def test_series_and_label_maps_lie_on_each_other(tmp_path):
    root = make.make_series(tmp_path / "in")
    config = PrepareConfig.of(
        reader="dicom",
        name="toy",
        table="labels.csv",
        mask_column="mask",
        spatial_dims=3,
        window=(-1024.0, 976.0),
    )
    run(config, root, tmp_path / "out")
    data = Manifest.read(tmp_path / "out")
    for case in data.cases:
        image, mask = nib.load(data.root / case.image), nib.load(data.root / case.mask)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert np.array_equal(image.affine, mask.affine)
        assert np.asarray(mask.dataobj).sum() == 2 * 2 * 3


def test_a_mask_stored_along_other_axes_is_turned_to_its_image(tmp_path):
    root = make.make_series(tmp_path / "in")
    config = PrepareConfig.of(
        reader="dicom", name="toy", table="labels.csv", mask_column="mask", spatial_dims=3
    )
    run(config, root, tmp_path / "a")
    for path in (root / "masks").iterdir():
        nib.save(nib.as_closest_canonical(nib.load(path)).as_reoriented([[2, 1], [0, -1], [1, 1]]), path)
    run(config, root, tmp_path / "b")
    masks = [{p.name: p.read_bytes() for p in (tmp_path / out / "masks").iterdir()} for out in "ab"]
    assert masks[0] == masks[1]


def test_spacing_of_radiographs_follows_the_resizing(tmp_path):
    for number in range(2):
        make.write_dicom(
            tmp_path / "in" / f"{number}.dcm",
            make.picture(number, (20, 10)),
            SOPInstanceUID=f"2.25.{number}",
            PatientID=f"P{number}",
            PixelSpacing=[0.5, 0.25],
        )
    make.write_table(tmp_path / "in" / "labels.csv", ["PatientID", "ill"], [["P0", 0], ["P1", 1]])
    for aspect, spacing in (("stretch", (1.0, 0.25)), ("pad", (1.0, 0.5))):
        config = PrepareConfig.of(
            reader="dicom", name="toy", table="labels.csv", size=(10,), aspect=aspect, split="exact"
        )
        run(config, tmp_path / "in", tmp_path / aspect)
        assert Manifest.read(tmp_path / aspect).info.spacing_mm == spacing


def test_a_mask_somewhere_else_stops_the_work(tmp_path):
    root = make.make_series(tmp_path / "in")
    mask = nib.load(root / "masks" / "0.nii.gz")
    make.write_volume(root / "masks" / "0.nii.gz", np.asarray(mask.dataobj), np.diag([-2.0, -1.0, 4.0, 1.0]))
    config = PrepareConfig.of(
        reader="dicom", name="toy", table="labels.csv", mask_column="mask", spatial_dims=3
    )
    with pytest.raises(DataError, match="elsewhere in space"):
        run(config, root, tmp_path / "out")


def test_siim_masks_reach_the_folder(tmp_path):
    config = PrepareConfig.of(reader="siim", name="toy", allow_missing=0.25)
    result = run(config, make.make_siim(tmp_path / "in"), tmp_path / "out")
    assert (result.cases, result.labels, result.skipped) == (3, {"pneumothorax": 1}, {"missing file": 1})


def test_published_splits_are_kept_and_valid_is_cut_from_train(tmp_path):
    result = run(
        PrepareConfig.of(reader="npz", name="toy", split="published"),
        make.make_npz(tmp_path / "in"),
        tmp_path / "out",
    )
    assert result.splits == {"test": 3, "train": 6, "valid": 3}
    make.make_nih(tmp_path / "nih")
    config = PrepareConfig.of(reader="nih", name="toy", split="published", label_columns=("Effusion",))
    assert run(config, tmp_path / "nih", tmp_path / "out2").splits["test"] == 1
    with pytest.raises(ConfigError, match="no published split"):
        run(with_(CSV, split="published"), make.make_csv(tmp_path / "csv"), tmp_path / "out3")


def test_a_grown_dataset_keeps_the_splits_of_the_older_one(tmp_path):
    run(CSV, make.make_csv(tmp_path / "small", patients=10), tmp_path / "a")
    grown = with_(CSV, split_from=str(tmp_path / "a"), seed=5)
    result = run(grown, make.make_csv(tmp_path / "large", patients=30), tmp_path / "b")
    old = {case.patient_id: case.split for case in Manifest.read(tmp_path / "a").cases}
    new = {case.patient_id: case.split for case in Manifest.read(tmp_path / "b").cases}
    assert all(new[patient] == split for patient, split in old.items())
    assert result.splits == {"test": 12, "train": 42, "valid": 6}
    with pytest.raises(DataError, match="the same"):
        run(with_(grown, name="other"), tmp_path / "large", tmp_path / "c")


@pytest.mark.parametrize(
    ("settings", "sites"),
    [
        (
            {"site_mode": "iid", "sites": ("a", "b", "c"), "site_fractions": (0.5, 0.25, 0.25)},
            {"a": 12, "b": 6, "c": 6},
        ),
        ({"site_mode": "column", "site_column": "hospital"}, {"site0": 12, "site1": 12}),
    ],
)
def test_sites(tmp_path, settings, sites):
    root = make.make_csv(tmp_path / "in", patients=12)
    assert run(with_(CSV, **settings), root, tmp_path / "out").sites == sites


@pytest.mark.parametrize("mode", ["label-skew", "attribute-skew"])
def test_skewed_sites_lose_nobody(tmp_path, mode):
    root = make.make_csv(tmp_path / "in", patients=12)
    config = with_(
        CSV,
        site_mode=mode,
        sites=("a", "b"),
        site_alpha=0.1,
        site_column="sex" if mode == "attribute-skew" else "",
    )
    result = run(config, root, tmp_path / "out")
    assert sum(result.sites.values()) == 24
    assert set(result.sites) == {"a", "b"}


def test_limit_takes_whole_patients(tmp_path):
    root = make.make_csv(tmp_path / "in")
    result = run(with_(CSV, limit=5), root, tmp_path / "out")
    assert (result.cases, result.patients) == (4, 2)


def test_names_that_a_manifest_needs_itself_are_refused(tmp_path):
    root = make.make_csv(tmp_path / "in")
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("hospital", "site"))
    with pytest.raises(ConfigError, match="'site'"):
        run(with_(CSV, attribute_columns=("site",)), root, tmp_path / "out")
    assert run(with_(CSV, site_mode="column", site_column="site"), root, tmp_path / "out").sites == {
        "site0": 6,
        "site1": 6,
    }


def test_an_image_twice_in_a_table_is_refused(tmp_path):
    root = make.make_csv(tmp_path / "in")
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("p0_1.png", "p0_0.png"))
    with pytest.raises(LayoutError, match=r"labels.csv, row \d and labels.csv, row \d"):
        run(CSV, root, tmp_path / "out")


def test_nothing_usable_is_an_error_with_reasons(tmp_path):
    root = make.make_csv(tmp_path / "in")
    shutil.rmtree(root / "images")
    with pytest.raises(DataError, match="missing file: 12"):
        run(CSV.replace(allow_missing=1.0), root, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        run(CSV, tmp_path / "nowhere", tmp_path / "out2")
