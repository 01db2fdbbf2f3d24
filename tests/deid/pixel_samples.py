"""Small images in every photometric interpretation and transfer syntax, for tests of text in pixels."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pydicom
from deid_samples import image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEGLosslessSV1

ROWS, COLUMNS = 40, 48


def coloured(kind: str) -> Dataset:
    """Return a secondary capture with random values of one kind."""
    draw = np.random.default_rng(sum(map(ord, kind)))
    ds = image(Modality="OT", SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImagePositionPatient=None)
    ds.Rows, ds.Columns = ROWS, COLUMNS
    bits = 16 if kind in ("grey 16", "signed", "inverted") else 8
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit = bits - 1
    shape: tuple[int, ...] = (ROWS, COLUMNS)
    if kind in ("RGB", "planes", "YBR_FULL"):
        ds.SamplesPerPixel, shape = 3, (ROWS, COLUMNS, 3)
        ds.PhotometricInterpretation = "YBR_FULL" if kind == "YBR_FULL" else "RGB"
        ds.PlanarConfiguration = int(kind == "planes")
    if kind == "inverted":
        ds.PhotometricInterpretation = "MONOCHROME1"
    if kind == "clip":
        ds.NumberOfFrames, shape = "3", (3, ROWS, COLUMNS)
    if kind == "palette":
        ds.PhotometricInterpretation = "PALETTE COLOR"
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            table = draw.permutation(256).astype("<u2") * 256
            setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
    if kind == "one bit":
        ds.BitsAllocated = ds.BitsStored = 1
        ds.HighBit = 0
        ds.NumberOfFrames = "3"
        ds.PixelData = np.packbits(draw.integers(0, 2, 3 * ROWS * COLUMNS), bitorder="little").tobytes()
        ds.PixelData += b"\0" * (len(ds.PixelData) % 2)
        return ds
    signed = kind == "signed"
    ds.PixelRepresentation = int(signed)
    low, high = (-2000, 2000) if signed else (0, 1 << bits)
    values = draw.integers(low, high, shape).astype("<i2" if signed else f"<u{bits // 8}")
    ds.PixelData = (values.transpose(2, 0, 1) if kind == "planes" else values).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return ds


def bytes_in(ds: Dataset, syntax: str) -> bytes:
    """Return a data set as the bytes of a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    ds.file_meta.TransferSyntaxUID = syntax
    ds.preamble = bytes(128)
    little, implicit = syntax != "1.2.840.10008.1.2.2", syntax == "1.2.840.10008.1.2"
    if not little and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    if ds.BitsAllocated == 8 or (UID(syntax).is_compressed and syntax != DeflatedExplicitVRLittleEndian):
        ds["PixelData"].VR = "OB"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, implicit_vr=implicit, little_endian=little, force_encoding=True)
    return stream.getvalue()


def compressed(ds: Dataset, syntax: str) -> bytes:
    """Return an image compressed without loss, one fragment per frame."""
    frames = int(ds.get("NumberOfFrames", 1))
    size = len(ds.PixelData) // frames
    kind = f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}"
    shape = (ds.Rows, ds.Columns, 3) if ds.SamplesPerPixel == 3 else (ds.Rows, ds.Columns)
    streams = []
    for number in range(frames):
        values = np.frombuffer(ds.PixelData[number * size : (number + 1) * size], kind).reshape(shape)
        if syntax == JPEGLosslessSV1:
            space = "RGB" if values.ndim == 3 else None
            ways = {"colorspace": space, "outcolorspace": space, "bitspersample": ds.BitsStored}
            streams.append(imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, **ways))
            continue
        streams.append(
            get_encoder(UID(syntax)).encode(
                values.tobytes(), rows=ds.Rows, columns=ds.Columns, samples_per_pixel=ds.SamplesPerPixel,
                bits_allocated=ds.BitsAllocated, bits_stored=ds.BitsStored, number_of_frames=1,
                pixel_representation=ds.PixelRepresentation, planar_configuration=0,
                photometric_interpretation=ds.PhotometricInterpretation,
            )
        )  # fmt: skip
    ds.PixelData = encapsulate(streams)
    ds["PixelData"].is_undefined_length = True
    return bytes_in(ds, syntax)
