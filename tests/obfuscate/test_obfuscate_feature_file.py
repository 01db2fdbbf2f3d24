"""A file of feature vectors that anybody may have written."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from meninx.core.errors import DataError, LayoutError, MeninxError, UsageError
from meninx.obfuscate.feature_file import read_features

ROWS = 12


def columns(**changed):
    given = {
        "features": np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
        "case_id": np.array([f"c{row}" for row in range(ROWS)]),
        "patient_id": np.array([f"p{row // 2}" for row in range(ROWS)]),
        "split": np.repeat(["train", "valid", "test"], 4),
        "sex": np.array(["F", "M"] * 6),
        "ill": np.arange(ROWS) % 2,
    }
    return {name: value for name, value in {**given, **changed}.items() if value is not None}


def saved(folder, **changed):
    np.savez(folder / "vectors.npz", **columns(**changed))
    return folder / "vectors.npz"


def read(path, labels=("ill",), seed=0):
    return read_features(path, attributes=("sex",), labels=labels, seed=seed)


def test_arrays_and_tables_give_the_same(tmp_path):
    found = read(saved(tmp_path))
    rows = columns()
    head = ["case_id", "patient_id", "split", "sex", "ill", "feature_0", "feature_1", "feature_2"]
    lines = [
        ",".join(map(str, [*(rows[name][row] for name in head[:5]), *rows["features"][row].tolist()]))
        for row in range(ROWS)
    ]
    (tmp_path / "vectors.csv").write_text("\n".join([",".join(head), *lines]) + "\n")
    table = read(tmp_path / "vectors.csv")
    np.testing.assert_array_equal(found.features, table.features)
    assert found.manifest.cases == table.manifest.cases
    assert found.manifest.targets()[:, 0].tolist() == (np.arange(ROWS) % 2).tolist()
    assert found.manifest.attribute("sex") == tuple(rows["sex"])
    assert found.digest != table.digest
    assert not found.divided


def test_patients_are_divided_by_the_seed_without_splits(tmp_path):
    path = saved(tmp_path, split=None, patient_id=np.array([f"p{row}" for row in range(ROWS)]))
    one, other = (read(path, seed=seed) for seed in (0, 1))
    splits = [case.split for case in one.manifest.cases]
    assert one.divided
    assert {name: splits.count(name) for name in set(splits)} == {"train": 7, "valid": 3, "test": 2}
    assert splits != [case.split for case in other.manifest.cases]


def test_unknown_labels_are_empty_or_nan(tmp_path):
    ill = np.where(np.arange(ROWS) == 2, np.nan, 1.0)
    assert np.isnan(read(saved(tmp_path, ill=ill)).manifest.targets()[2, 0])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": np.full((ROWS, 3), np.nan)}, "finite numbers"),
        ({"features": np.full((ROWS, 3), 1e300)}, "finite numbers"),
        ({"features": np.full((ROWS, 3), 1e30)}, "finite numbers"),
        ({"features": np.zeros(ROWS)}, "1 to 65,536 numbers"),
        ({"features": np.zeros((ROWS, 0))}, "vectors"),
        ({"features": np.array([["1"] * 3] * ROWS)}, "expected numbers"),
        ({"features": np.zeros((ROWS, 3), dtype=complex)}, "neither numbers nor short texts"),
        ({"features": None}, "no array 'features'"),
        ({"case_id": None}, "no column 'case_id'"),
        ({"sex": None}, "no column 'sex'"),
        ({"case_id": np.array(["c0"] * ROWS)}, "each case_id once"),
        ({"case_id": np.array(["../up"] + [f"c{row}" for row in range(1, ROWS)])}, "case_id"),
        ({"patient_id": np.array(["=cmd()"] * ROWS)}, "plain patient_id"),
        ({"patient_id": np.array(["p"] * ROWS)}, "every patient in one split"),
        ({"split": np.array(["train"] * 11 + ["holdout"])}, "the split is not one of"),
        ({"sex": np.array(["F"] * 11)}, "different lengths"),
        ({"sex": np.zeros((ROWS, 2))}, "one value per vector"),
        ({"ill": np.arange(ROWS)}, "not 0, 1 or empty"),
        ({"case_id": np.array([f"c{row}" for row in range(ROWS)], dtype=object)}, "short texts"),
        ({"note": np.array(["x" * 600] * ROWS)}, "short texts"),
        ({"obfuscated": np.array(["before"] * ROWS)}, "obfuscated before"),
    ],
)
def test_what_does_not_fit_is_refused_without_its_values(tmp_path, changed, words):
    with pytest.raises(DataError) as refused:
        read(saved(tmp_path, **changed))
    assert words in str(refused.value)
    assert "holdout" not in str(refused.value)
    assert "cmd" not in str(refused.value)


def test_a_label_to_keep_is_not_the_attribute_to_hide(tmp_path):
    with pytest.raises(UsageError, match="attribute to hide"):
        read(saved(tmp_path), labels=("sex",))


def packed(folder, header: bytes, body: bytes = b"", *, name="features.npy"):
    """Write an archive with one array whose header is given."""
    text = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body
    path = folder / "vectors.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000, 4000)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': ()}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': '|V8', 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': '<U0', 'fortran_order': False, 'shape': (2,)}",
        b"__import__('os').system('true')",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)," + b" " * 20000 + b"}",
        b"(" * 3000,
    ],
)
def test_a_header_is_compared_with_the_bytes_before_anything_is_allocated(tmp_path, header):
    with pytest.raises(DataError):
        read(packed(tmp_path, header))


def test_objects_bombs_and_other_bytes_are_refused(tmp_path):
    np.savez(tmp_path / "vectors.npz", features=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="short texts"):
        read(tmp_path / "vectors.npz")
    (tmp_path / "other.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match="plain arrays"):
        read(tmp_path / "other.npz")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(65):
            archive.writestr(f"a{number}.npy", b"")
    (tmp_path / "many.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="at most 64 arrays"):
        read(tmp_path / "many.npz")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(1000))
        archive.infolist()[0].file_size = 1 << 40
    with pytest.raises(DataError, match="too many bytes"):
        read(tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("case_id,patient_id,sex,ill,feature_0,feature_2", "c,p,F,1,1,2"),
        ("case_id,patient_id,sex,ill", "c,p,F,1"),
        ("case_id,patient_id,sex,ill,feature_0", "c,p,F,1,high"),
        ("case_id,patient_id,sex,ill,feature_0", "c,p,F,1,nan"),
        ("case_id,patient_id,sex,ill,feature_0", "c,p,F,1,"),
        ("case_id,sex,ill,feature_0", "c,F,1,1"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, head, row):
    path = tmp_path / "vectors.csv"
    path.write_text(f"{head}\n{row}\n")
    with pytest.raises((DataError, LayoutError)) as refused:
        read(path)
    assert isinstance(refused.value, MeninxError)
    assert "high" not in str(refused.value)


def test_a_small_file_that_grows_is_refused_before_it_takes_memory(tmp_path):
    path = tmp_path / "vectors.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in columns(features=None).items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
        with archive.open("features.npy", "w") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (ROWS, (256 << 20) // ROWS)}
            np.lib.format.write_array_header_1_0(stream, header)
            for _ in range(256):
                stream.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"at most 64 arrays of .* MiB together"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_an_array_is_not_read_when_its_header_does_not_fit(tmp_path):
    path = tmp_path / "vectors.npz"
    header = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, 3)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("features.npy", "w") as stream,
    ):
        np.lib.format.write_array_header_1_0(stream, header)
        for _ in range(40):
            stream.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="does not hold what its header says"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
