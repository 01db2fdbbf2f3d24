"""A DICOMDIR written as a stream has the offsets that a reader follows, whatever the tree."""

from __future__ import annotations

import io
import struct

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from meninx.core.errors import DataError
from meninx.dicomfile import directory_file
from meninx.dicomfile.directory_file import DirectoryFile
from meninx.dicomfile.directory_records import encoded
from meninx.dicomfile.instance import directory_records

TREES = st.recursive(st.just([]), lambda below: st.lists(below, max_size=3), max_leaves=12)


def written(tree: list) -> bytes:
    stream, names = io.BytesIO(), iter(range(10_000))

    def add(directory, level, nodes):
        for below in nodes:
            record = Dataset()
            record.PatientID = str(next(names)) * (level + 1)
            directory.add(level, "PATIENT", encoded(record))
            add(directory, level + 1, below)

    with DirectoryFile(stream, "2.25.1") as directory:
        add(directory, 0, tree)
    return stream.getvalue()


def followed(content: bytes) -> list:
    """Return the tree that a reader sees who follows the offsets."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    records = {record.seq_item_tell: record for record in dataset.DirectoryRecordSequence}
    seen = []

    def chain(offset):
        nodes, last = [], 0
        while offset:
            seen.append(offset)
            record, last = records[offset], offset
            nodes.append(chain(record.OffsetOfReferencedLowerLevelDirectoryEntity)[0])
            offset = record.OffsetOfTheNextDirectoryRecord
        return nodes, last

    tree, last = chain(dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity)
    assert last == dataset.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity
    assert sorted(seen) == sorted(records), "a record that no offset reaches, or one that two reach"
    return tree


@given(TREES)
def test_whoever_follows_the_offsets_sees_the_tree(tree):
    content = written(tree)
    assert followed(content) == tree
    assert len(directory_records(content)) == len(content.split(b"PATIENT ")) - 1


def test_an_error_inside_leaves_no_offsets_behind():
    stream = io.BytesIO()
    with pytest.raises(KeyError), DirectoryFile(stream, "2.25.1"):
        raise KeyError
    assert stream.getvalue()[-4:] == bytes(4)


def test_offsets_of_more_than_32_bits_are_refused(monkeypatch):
    monkeypatch.setattr(directory_file, "LIMIT", 1000)
    with pytest.raises(DataError, match="4 GiB"):
        written([[]] * 30)


def test_one_record_has_the_bytes_of_the_standard():
    content = written([[]])
    assert content[128:132] == b"DICM"
    item = content.index(b"\xfe\xff\x00\xe0")
    at = content.index(b"\x04\x00\x00\x12UL") + 8
    assert struct.unpack("<I", content[at : at + 4]) == (item,)
    assert content[item + 8 :].startswith(
        b"\x04\x00\x00\x14UL\x04\x00\0\0\0\0\x04\x00\x10\x14US\x02\x00\xff\xff"
    )
