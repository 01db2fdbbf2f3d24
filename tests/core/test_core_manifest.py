"""A dataset table that lies about its patients cannot be made."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meninx.core import files, integrity, names, plain, workspace
from meninx.core.errors import DataError, LayoutError
from meninx.core.intensity import Intensity
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind, dataset_digest

INFO = DatasetInfo(
    name="toy", task=TaskKind.MULTILABEL, labels=("effusion", "nodule"), attributes=("sex",), size=(8, 8)
)


def case(number: int, patient: str, split: str = "train", site: str = "", **kwargs) -> Case:
    labels = {"effusion": float(number % 2), "nodule": None}
    return Case(
        case_id=f"c{number}",
        patient_id=patient,
        image=f"images/c{number}.png",
        split=split,
        site=site,
        labels=labels,
        attributes={"sex": "F"},
        **kwargs,
    )


def test_a_dataset_survives_the_disk(tmp_path: Path):
    info = DatasetInfo(
        name="x",
        task=TaskKind.MULTILABEL,
        labels=("a", "b"),
        attributes=("sex", "age"),
        size=(8, 8),
        spacing_mm=(1.0, 2.0),
        intensity=Intensity(window=(-150.0, 200.0), shift=25.0, scale=175.0, source="standard"),
        laterality=(("a", "b"),),
    )
    rows = (
        Case(
            case_id="1",
            patient_id="p",
            image="images/1.png",
            labels={"a": 1.0, "b": None},
            attributes={"sex": "F", "age": "70"},
        ),
    )
    Manifest(tmp_path, info, rows).write()
    again = Manifest.read(tmp_path)
    assert again.info == info
    assert again.cases == rows


def test_targets_keep_unknown_labels_unknown(tmp_path: Path):
    manifest = Manifest(tmp_path, INFO, (case(0, "a"), case(1, "b")))
    targets = manifest.targets()
    assert targets.shape == (2, 2)
    assert np.isnan(targets[:, 1]).all()
    assert targets[:, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("other", [{"split": "test"}, {"site": "north"}])
def test_a_patient_in_two_splits_or_sites_is_refused_without_being_named(tmp_path: Path, other: dict):
    with pytest.raises(DataError, match="every patient in one") as caught:
        Manifest(tmp_path, INFO, (case(0, "Jane"), case(1, "Jane", **other)))
    assert "Jane" not in str(caught.value)


def test_an_image_twice_is_refused(tmp_path: Path):
    twin = Case(case_id="other", patient_id="b", image="images/c0.png", labels={}, attributes={})
    with pytest.raises(DataError, match="each image once"):
        Manifest(tmp_path, INFO, (case(0, "a"), twin))


def test_a_missing_column_and_a_wrong_label_name_file_column_and_row(tmp_path: Path):
    Manifest(tmp_path, INFO, (case(0, "a"),)).write()
    table = tmp_path / "manifest.csv"
    text = table.read_text()
    table.write_text(text.replace("nodule", "lump"))
    with pytest.raises(LayoutError, match=r"'nodule'.*manifest\.csv"):
        Manifest.read(tmp_path)
    table.write_text(text.replace(",0,,F", ",yes,,F"))
    with pytest.raises(LayoutError, match=r"row 2, column 'effusion'"):
        Manifest.read(tmp_path)


def test_a_folder_that_is_no_dataset_says_what_to_do(tmp_path: Path):
    with pytest.raises(LayoutError, match="meninx prepare"):
        Manifest.read(tmp_path)


def spoil(root: Path, row: int, column: str, value: str) -> None:
    """Change one cell of the manifest on the disk."""
    table = root / "manifest.csv"
    with table.open(newline="") as stream:
        rows = list(csv.reader(stream))
    rows[row][rows[0].index(column)] = value
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


HOSTILE = [
    "$__import__('os').system('x')",
    "@target",
    "%command",
    "=1+1",
    "a\x00b",
    "a\nb",
    "\u202egnp",
    "x" * 256,
    " a",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["name", "labels", "attributes", "laterality"])
def test_a_name_that_another_program_could_run_makes_no_dataset(name: str, place: str):
    values = {
        "name": name,
        "labels": ("effusion", name),
        "attributes": ("sex", name),
        "laterality": (("effusion", name),),
    }
    with pytest.raises(DataError) as caught:
        replace(INFO, **{place: values[place]})
    assert len(name) < 4 or name not in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE[:-1])
@pytest.mark.parametrize("column", ["case_id", "patient_id", "study", "site"])
def test_a_hostile_identifier_is_refused_with_its_row(tmp_path: Path, name: str, column: str):
    with pytest.raises(DataError, match=column):
        replace(case(0, "a"), **{column: name})
    Manifest(tmp_path, INFO, (case(0, "a"), case(1, "b"))).write()
    spoil(tmp_path, 2, column, name)
    with pytest.raises(DataError, match=rf"row 3, column '{column}'") as caught:
        Manifest.read(tmp_path)
    assert len(name) < 4 or name not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".hidden", "c:", "x" * 129, "a|b", ""])
def test_a_case_id_that_cannot_name_a_file_is_refused(name: str):
    with pytest.raises(DataError, match="cannot be used as a file name"):
        replace(case(0, "a"), case_id=name)


@pytest.mark.parametrize(
    "path",
    [
        "../x.png",
        "/etc/passwd",
        "images\\..\\x.png",
        "C:/x.png",
        "images/../../x",
        "a\nb",
        "\x7f",
        "x" * 5000,
    ],
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_path_that_leaves_the_dataset_is_refused_with_its_row(tmp_path: Path, path: str, column: str):
    Manifest(tmp_path, INFO, (case(0, "a", mask="masks/c0.png"),)).write()
    spoil(tmp_path, 1, column, path)
    with pytest.raises(DataError, match=rf"row 2, column '{column}'"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("place", ["images", "images/c0.png"])
def test_a_link_out_of_the_dataset_is_refused(tmp_path: Path, place: str):
    root, outside = tmp_path / "data", tmp_path / "outside"
    Manifest(root, INFO, (case(0, "a"), case(1, "b"))).write()
    outside.mkdir()
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).symlink_to(outside)
    with pytest.raises(DataError, match=r"row 2\)"):
        Manifest.read(root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[8, 8]", "[1000000000000, 8]"),
        ("[8, 8]", '["8", 8]'),
        ("[8, 8]", "8"),
        ("spatial_dims = 2", "spatial_dims = [2]"),
        ("spatial_dims = 2", "spatial_dims = 7"),
        ("channels = 1", "channels = 100000000000000000000000"),
        ("scale = 127.5", "scale = 0.0"),
        ("scale = 127.5", "scale = [1.0]"),
        ("shift = 127.5", "shift = nan"),
        ('name = "toy"', "name = 1"),
        ('name = "toy"', "name = 2026-11-01"),
        ('"effusion"', "7"),
        ("synthetic = false", "synthetic = 0"),
        ("synthetic = false", "synthesis = false"),
        ('"multilabel"', '"divination"'),
        ("spacing_mm = []", "spacing_mm = [inf, 1.0]"),
        ('name = "toy"', "name = " + "[" * 2000),
    ],
)
def test_a_dataset_toml_of_wrong_types_is_refused_with_its_name(tmp_path: Path, old: str, new: str):
    Manifest(tmp_path, INFO, (case(0, "a"),)).write()
    text = (tmp_path / "dataset.toml").read_text().replace("[\n    8,\n    8,\n]", "[8, 8]")
    assert old in text
    (tmp_path / "dataset.toml").write_text(text.replace(old, new))
    with pytest.raises(LayoutError, match=r"dataset\.toml"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b'"' + b"x" * 200_000 + b'"\n', b"case_id\n\x00\n", b"case_id,case_id\n", b""],
)
def test_a_table_of_foreign_content_is_refused(tmp_path: Path, content: bytes):
    Manifest(tmp_path, INFO, (case(0, "a"),)).write()
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.csv"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("cell", ["inf", "nan", "-1", "1e999", "2"])
def test_a_label_outside_its_range_is_refused(tmp_path: Path, cell: str):
    Manifest(tmp_path, INFO, (case(0, "a"),)).write()
    table = tmp_path / "manifest.csv"
    table.write_text(table.read_text().replace(",0,,F", f",{cell},,F"))
    with pytest.raises(LayoutError, match=r"row 2, column 'effusion'"):
        Manifest.read(tmp_path)


def test_an_attribute_never_becomes_a_formula_and_numbers_stay(tmp_path: Path):
    info = replace(INFO, attributes=("note", "change"))
    texts = {"note": "=HYPERLINK(1)", "change": "-3.5"}
    Manifest(tmp_path, info, (replace(case(0, "a"), attributes=texts),)).write()
    assert Manifest.read(tmp_path).cases[0].attributes == {"note": "'=HYPERLINK(1)", "change": "-3.5"}
    with pytest.raises(DataError, match="column 'note'"):
        replace(case(0, "a"), attributes={"note": "x" * 10_000})


def whole(root: Path) -> Manifest:
    """A dataset of two images with its list of checksums."""
    manifest = Manifest(root, INFO, (case(0, "a"), case(1, "b")))
    manifest.write()
    for number in range(2):
        files.write_bytes(root / f"images/c{number}.png", bytes([number]))
    integrity.write(
        root,
        integrity.measured(
            root, [*(root / "images").iterdir(), root / "manifest.csv", root / "dataset.toml"]
        ),
    )
    return Manifest.read(root)


def test_a_replaced_image_is_noticed_when_it_is_read(tmp_path: Path):
    data = whole(tmp_path)
    assert data.verified_bytes("images/c1.png") == b"\x01"
    assert set(data.image_digests()) == {"c0", "c1"}
    (tmp_path / "images/c1.png").write_bytes(b"\x02")
    with pytest.raises(DataError, match=r"other bytes \(manifest\.csv, row 3\)"):
        data.select(lambda one: True).check_file("images/c1.png")
    (tmp_path / "images/c1.png").unlink()
    with pytest.raises(DataError, match=r"row 3"):
        data.check_file("images/c1.png")
    (tmp_path / "extra.png").write_bytes(b"x")
    with pytest.raises(DataError, match="not in"):
        data.check_file("extra.png")


def test_an_older_dataset_without_checksums_is_read(tmp_path: Path):
    data = whole(tmp_path)
    with_images = dataset_digest(tmp_path)
    (tmp_path / "checksums.sha256").unlink()
    data = Manifest.read(tmp_path)
    data.check_file("images/c1.png")
    assert data.image_digests() == {}
    assert (with_images.images, dataset_digest(tmp_path).images) == (True, False)
    assert with_images.digest != dataset_digest(tmp_path).digest


def test_a_dataset_digest_names_table_meaning_and_images(tmp_path: Path):
    whole(tmp_path)
    seen = {dataset_digest(tmp_path).digest}
    for name in ("manifest.csv", "dataset.toml", "checksums.sha256"):
        with (tmp_path / name).open("ab") as stream:
            stream.write(b"\n")
        seen.add(dataset_digest(tmp_path).digest)
    assert len(seen) == 4
    with pytest.raises(DataError, match=r"manifest\.csv"):
        dataset_digest(tmp_path / "none")


def test_a_dataset_in_the_middle_of_its_publication_is_not_read(tmp_path: Path):
    whole(tmp_path)
    workspace.make_private(tmp_path)
    marker = workspace.Marker(stage="prepare", publishing=("images",))
    files.write_text(tmp_path / "private" / "workspace.json", plain.to_json(marker))
    with pytest.raises(LayoutError, match="being replaced"):
        Manifest.read(tmp_path)


def test_a_colleague_who_may_not_enter_the_private_room_reads_the_dataset(tmp_path: Path, monkeypatch):
    whole(tmp_path)

    def refused(root: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(workspace, "read_marker", refused)
    assert len(Manifest.read(tmp_path)) == 2


texts = st.text(st.characters(exclude_categories=()), max_size=20)  # halves of surrogate pairs, too


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(patient="p", site="", study="", note="", image="\ud800.png", label="a")
@given(patient=texts, site=texts, study=texts, note=texts, image=texts, label=texts)
def test_what_can_be_made_survives_the_disk_and_nothing_else_raises(
    tmp_path, patient, site, study, note, image, label
):
    """Any text: refused as DataError, or written and read back the same; a formula is quoted once."""
    try:
        info = DatasetInfo(name="x", task=TaskKind.MULTILABEL, labels=(label,), attributes=("note",))
        made = Case(
            case_id="c1",
            patient_id=patient,
            site=site,
            study=study,
            image=image,
            labels={label: 1.0},
            attributes={"note": note},
        )
    except DataError:
        return
    Manifest(tmp_path, info, (made,)).write()
    again = Manifest.read(tmp_path)
    assert again.info == info
    assert again.cases == (replace(made, attributes={"note": names.csv_cell(note)}),)
    again.write()
    assert Manifest.read(tmp_path) == again


def test_the_digest_without_images_is_that_of_a_dataset_without_a_list(tmp_path: Path):
    whole(tmp_path)
    both, tables = dataset_digest(tmp_path), dataset_digest(tmp_path, images=False)
    assert (both.images, tables.images, both.digest == tables.digest) == (True, False, False)
    (tmp_path / "checksums.sha256").unlink()
    assert dataset_digest(tmp_path) == tables
