"""What a zip archive holds around its members is searched like the rest."""

from __future__ import annotations

import io
import zipfile

import dicom_check_samples as samples
import pytest

import meninx

NOTE = f"for Mrs {samples.SURNAME}".encode()


def archive(where, note):
    """Return a zip archive of one clean file with a note in one place."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        member = zipfile.ZipInfo("images/a.dcm")
        member.comment = note if where == "comment of a member" else b""
        if where == "extra field":
            member.extra = b"\x99\x99" + len(note).to_bytes(2, "little") + note
        packed.comment = note if where == "comment" else b""
        packed.writestr(member, samples.clean())
    return stream.getvalue()


@pytest.mark.parametrize("where", ["comment", "comment of a member", "extra field"])
def test_an_identifier_around_the_members_of_an_archive_is_a_leak(where, tmp_path):
    source, folder = samples.archive(tmp_path / "archive"), tmp_path / "theirs"
    folder.mkdir()
    for note, reasons in ((NOTE, {"identifier-in-bytes": 1}), (b"made by a scanner", {})):
        (folder / "a.zip").write_bytes(archive(where, note))
        for place in (folder, folder / "a.zip"):
            result = meninx.verify(place, originals=source, workers=1)
            assert (result.reasons, result.exit_code) == (reasons, 4 if reasons else 0)
    assert result.places == {}
