"""Private elements, unsafe and safe, and identifiers in pictures inside the header: overlays, curves, icons, unused bits."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from meninx.imaging.phantom.instances import Visit
from meninx.imaging.phantom.plants import Planter
from meninx.imaging.phantom.record import Record, item
from meninx.imaging.phantom.text import bitmap, packed

#: elements of DICOM PS3.15 Table E.3.10-1: creator, group, element offset, VR, value
SAFE: Final[tuple[tuple[str, int, int, str, Any], ...]] = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C, "IS", "1000"),
    ("SIEMENS MR HEADER", 0x0019, 0x0D, "CS", "DIRECTIONAL"),
    ("GEMS_PARM_01", 0x0043, 0x39, "IS", ["800", "8", "0", "0"]),
    ("Philips Imaging DD 001", 0x2001, 0x03, "FL", 500.0),
    ("Philips Imaging DD 001", 0x2001, 0x0B, "CS", "TRANSVERSAL"),
    ("ELSCINT1", 0x01F1, 0x26, "DS", "0.984"),
)


def unsafe(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant private elements without a creator, in a second block, and in a private sequence with public and private items."""
    who = visit.who
    data.add(DataElement(0x0033_1001, "LO", who.family))
    record.note("(0033,1001)", "name", who.family)
    first = data.private_block(0x0029, "PLUME IMAGING SHADOW", create=True)
    first.add_new(0x01, "LO", f"op {visit.home.physicians[1].split('^')[0]}")
    record.note("(0029,1001)", "physician", visit.home.physicians[1].split("^")[0])
    second = data.private_block(0x0029, f"{visit.home.key.upper()} WORKLIST 1.0", create=True)
    second.add_new(0x10, "UT", f"<patient><name>{who.family}</name><mrn>{who.patient_id}</mrn></patient>")
    record.note("(0029,1110)", "name", who.family, who.patient_id)
    second.add_new(0x11, "OB", _even(f"phone={who.phone}".encode()))
    record.note("(0029,1111)", "phone", who.phone)
    inner = Dataset()
    if who.charset:
        inner.SpecificCharacterSet = list(who.charset)
    inner.PatientName = who.name
    inner.private_block(0x0031, "PLUME NESTED", create=True).add_new(0x02, "SH", who.social)
    second.add_new(0x12, "SQ", Items([inner]))
    record.note("(0029,1112)[0]/PatientName", "name", who.family, who.given)
    record.note("(0029,1112)[0]/(0031,1002)", "id", who.social)


def safe(data: Dataset, visit: Visit, record: Record) -> None:
    """Write safe private elements, and in the block of one creator an unsafe neighbour."""
    for creator, group, offset, vr, value in SAFE:
        block = data.private_block(group, creator, create=True)
        block.add_new(offset, vr, value)
        texts = value if isinstance(value, list) else [value]
        record.safe.extend(
            (f"({group:04X},xx{offset:02X}) {creator}", "safe_private", str(text)) for text in texts
        )
    data.private_block(0x0019, "SIEMENS MR HEADER").add_new(0x55, "LO", f"tech {visit.who.relative}")
    record.note("(0019,1055)", "name", visit.who.relative)


def overlay(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant an overlay whose bitmap is the patient's name, with labels, in groups 6000 and 6002."""
    who = visit.who
    letters, _ = bitmap([who.family, who.patient_id], int(data.Rows), int(data.Columns))
    for group in (0x6000, 0x6002):
        at = f"({group:04X},3000)"
        for element, vr, value in (
            (0x0010, "US", int(data.Rows)),
            (0x0011, "US", int(data.Columns)),
            (0x0022, "LO", f"Annotation {who.given}"),
            (0x0040, "CS", "G"),
            (0x0050, "SS", [1, 1]),
            (0x0100, "US", 1),
            (0x0102, "US", 0),
            (0x1500, "LO", who.family),
            (0x3000, "OW", packed(letters)),
        ):
            data.add(DataElement((group << 16) | element, vr, value))
        record.note(f"({group:04X},0022)", "name", who.given)
        record.note(f"({group:04X},1500)", "name", who.family)
        record.note(at, "bitmap", f"{who.family}/{who.patient_id}")


def curve(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant a retired curve with a labelled description."""
    for element, vr, value in (
        (0x0005, "US", 1),
        (0x0010, "US", 4),
        (0x0020, "CS", "ECG"),
        (0x0022, "LO", f"ECG of {visit.who.family}"),
        (0x2500, "LO", visit.who.phone),
        (0x3000, "OW", np.arange(4, dtype="<u2").tobytes()),
    ):
        data.add(DataElement((0x5000 << 16) | element, vr, value))
    record.note("(5000,0022)", "name", visit.who.family)
    record.note("(5000,2500)", "phone", visit.who.phone)


def icon(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant a thumbnail with the name in its pixels."""
    letters, _ = bitmap([visit.who.family], 32, 64)
    inner, at = item(data, "IconImageSequence")
    inner.SamplesPerPixel, inner.PhotometricInterpretation = 1, "MONOCHROME2"
    inner.Rows, inner.Columns = 32, 64
    inner.BitsAllocated, inner.BitsStored, inner.HighBit, inner.PixelRepresentation = 8, 8, 7, 0
    inner.PixelData = np.where(letters, np.uint8(255), np.uint8(40)).tobytes()
    inner["PixelData"].VR = "OB"
    record.note(f"{at}PixelData", "bitmap", visit.who.family)


def spare_bits(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant the name as a picture in the highest of the four bits that the pixels do not use (native encodings only)."""
    pixels = np.frombuffer(data.PixelData, "<u2").reshape(int(data.Rows), int(data.Columns))
    letters, _ = bitmap([visit.who.family], *pixels.shape)
    data.PixelData = (pixels | (letters.astype(np.uint16) << 15)).astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    for element, vr, value in (
        (0x0010, "US", int(data.Rows)),
        (0x0011, "US", int(data.Columns)),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 16),
        (0x0102, "US", 15),
    ):
        data.add(DataElement((0x6004 << 16) | element, vr, value))
    record.note("PixelData bit 15", "bitmap", visit.who.family)


def padding(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant text in the padding behind the pixels."""
    data.add(DataElement(0xFFFC_FFFC, "OB", _even(f"printed for {visit.who.relative}".encode())))
    record.note("DataSetTrailingPadding", "name", visit.who.relative)


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


IN_TURN: Final[tuple[Planter, ...]] = (unsafe, safe, overlay, curve, icon, padding)
