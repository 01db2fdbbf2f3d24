"""Recall of burned-in text by kind, technical labels kept, and processor time, on pictures made for it.

The pictures of the half ``measure`` are written as DICOM files in many forms (colour spaces, transfer
syntaxes, clips), each file is cleaned as ``meninx deid`` does, and the glyphs that were written are compared
with the result. A line is removed if at least 98 % of its glyph pixels lie in filled boxes and what is left
correlates with the glyphs by less than 0.25.

    python benchmarks/bench_burned_text.py                  print the table
    python benchmarks/bench_burned_text.py --write FILE     write it between the marks of a page
    python benchmarks/bench_burned_text.py --choose         compare scales and thresholds on the other half
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from scipy.stats import beta

import pages
from burned_text_pictures import COLUMNS, KINDS, ROWS, Page, Writer
from meninx.deid.burned_in import burned_text
from meninx.deid.burned_in.burned_text import TextRule
from meninx.deid.burned_in.pixel_cleaner import PixelCleaner
from meninx.deid.identifiers import Identifiers
from meninx.dicomfile import frames, instance, redaction
from meninx.imaging import ocr
from meninx.imaging.ocr import Search

LIMIT, COVERED = 0.25, 0.98
FRAMES = 30
Pixels = npt.NDArray[np.uint8]


def dataset(rows: int = ROWS, columns: int = COLUMNS) -> Dataset:
    """Return an ultrasound secondary capture without pixels."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.5", "1.2.3.6"
    ds.Modality, ds.PatientID = "US", "1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    ds.PlanarConfiguration, ds.PixelRepresentation = 0, 0
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    return ds


def grey(ds: Dataset, values: npt.NDArray[np.unsignedinteger], bits: int = 8) -> Dataset:
    """Give a data set grey pixels."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    del ds.PlanarConfiguration
    ds.BitsStored, ds.HighBit, ds.BitsAllocated = bits, bits - 1, values.dtype.itemsize * 8
    ds.PixelData = values.tobytes()
    return ds


def as_rgb(picture: Pixels) -> tuple[Dataset, str]:
    """Native RGB."""
    ds = dataset()
    ds.PixelData = picture.tobytes()
    return ds, ExplicitVRLittleEndian


def as_planes(picture: Pixels) -> tuple[Dataset, str]:
    """Native RGB in planes."""
    ds = dataset()
    ds.PlanarConfiguration, ds.PixelData = 1, np.ascontiguousarray(picture.transpose(2, 0, 1)).tobytes()
    return ds, ExplicitVRLittleEndian


def as_palette(picture: Pixels) -> tuple[Dataset, str]:
    """Native palette of 216 colours."""
    ds = grey(dataset(), np.zeros((1, 1), np.uint8))
    levels = np.round(picture.astype(np.float32) / 51).astype(np.uint16)
    index = (levels[..., 0] * 36 + levels[..., 1] * 6 + levels[..., 2]).astype(np.uint8)
    ds.PhotometricInterpretation, ds.PixelData = "PALETTE COLOR", index.tobytes()
    numbers = np.arange(256)
    for colour, share in (("Red", numbers // 36 % 6), ("Green", numbers // 6 % 6), ("Blue", numbers % 6)):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", (share * 51 * 257).astype("<u2").tobytes())
    return ds, ExplicitVRLittleEndian


def as_inverted(picture: Pixels) -> tuple[Dataset, str]:
    """Native MONOCHROME1."""
    ds = grey(dataset(), 255 - picture.max(axis=2))
    ds.PhotometricInterpretation = "MONOCHROME1"
    return ds, ExplicitVRLittleEndian


def as_sixteen_bits(picture: Pixels) -> tuple[Dataset, str]:
    """Native grey of 12 bits, in which the image takes the lower third and the text keeps its distance."""
    return grey(dataset(), picture.max(axis=2).astype("<u2") * 16, 12), ExplicitVRLittleEndian


def as_jpeg(picture: Pixels) -> tuple[Dataset, str]:
    """JPEG baseline, YBR_FULL_422."""
    ds = dataset()
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.PixelData = encapsulate([imagecodecs.jpeg8_encode(picture, level=90, subsampling="422")])
    return ds, JPEGBaseline8Bit


def lossless(syntax: str) -> Callable[[Pixels], tuple[Dataset, str]]:
    """Return how a picture is written in a lossless syntax, in RGB."""

    def write(picture: Pixels) -> tuple[Dataset, str]:
        ds = dataset()
        if syntax == JPEGLosslessSV1:
            ways = {"colorspace": "RGB", "outcolorspace": "RGB"}
            stream = imagecodecs.jpeg8_encode(picture, lossless=True, predictor=1, **ways)
        else:
            stream = get_encoder(UID(syntax)).encode(
                picture.tobytes(), rows=ROWS, columns=COLUMNS, samples_per_pixel=3, bits_allocated=8,
                bits_stored=8, pixel_representation=0, photometric_interpretation="RGB", number_of_frames=1,
                planar_configuration=0,
            )  # fmt: skip
        ds.PixelData = encapsulate([stream])
        return ds, syntax

    return write


FORMS: dict[str, Callable[[Pixels], tuple[Dataset, str]]] = {
    "RGB": as_rgb, "RGB, planar configuration 1": as_planes, "PALETTE COLOR": as_palette,
    "MONOCHROME1": as_inverted, "12 of 16 bits": as_sixteen_bits, "JPEG, YBR_FULL_422": as_jpeg,
    "RLE": lossless(RLELossless), "JPEG 2000 lossless": lossless(JPEG2000Lossless),
    "JPEG-LS lossless": lossless(JPEGLSLossless), "JPEG lossless": lossless(JPEGLosslessSV1),
}  # fmt: skip


def as_bytes(ds: Dataset, syntax: str) -> bytes:
    """Return a data set as the bytes of a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = syntax
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    ds["PixelData"].is_undefined_length = UID(syntax).is_compressed
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


@dataclass
class Score:
    """Lines by kind: how many were removed (or, of technical ones, kept) of how many.

    Attributes:
        lines: kind -> outcome of each line.
        forms: form of the file -> outcome of each line that identifies.
        worst: highest correlation of what is left with the glyphs.
        changed: share of the pixels outside all lines that changed, per picture.
        cpu: processor seconds per picture.
    """

    lines: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    forms: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    worst: float = 0.0
    changed: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(score: Score, page: Page, form: str, data: bytes) -> None:
    """Clean one file and compare."""
    original = instance.read(data)
    before = _shown(original)
    start = time.process_time()
    result, report = PixelCleaner().clean(original, Identifiers())
    filled = ~redaction.outside(page.picture.shape[:2], report.boxes)
    score.cpu.append(time.process_time() - start)
    after = _shown(result)
    outside = np.ones(after.shape, dtype=np.bool_)
    for line in page.lines:
        box = line.box
        piece = after[box.top : box.bottom, box.left : box.right]
        old = before[box.top : box.bottom, box.left : box.right]
        around = box.grown(24, page.picture.shape)
        outside[around.top : around.bottom, around.left : around.right] = False
        if line.kind == "technical":
            score.lines[line.kind].append(bool(np.array_equal(piece, old)))
            continue
        left = _correlation(piece, line.glyphs)
        inside = filled[box.top : box.bottom, box.left : box.right]
        gone = inside[line.glyphs].mean() >= COVERED and left < LIMIT
        score.worst = max(score.worst, left)
        score.lines[line.kind].append(bool(gone))
        score.forms[form].append(bool(gone))
    score.changed.append(float((before != after)[outside].mean()) if outside.any() else 0.0)


def _shown(original: instance.Instance) -> npt.NDArray[np.float32]:
    values = next(frames.all_shown(original, frames.layers_of(original))).astype(np.float32)
    return values if values.ndim == 2 else values.max(axis=2)


def _correlation(piece: npt.NDArray[np.float32], glyphs: npt.NDArray[np.bool_]) -> float:
    if piece.std() == 0 or glyphs.all():
        return 0.0
    return abs(float(np.corrcoef(piece.ravel(), glyphs.ravel().astype(np.float32))[0, 1]))


def clip(writer: Writer) -> tuple[Page, bytes, bytes]:
    """Return a page, a clip in which its text stays over moving speckle, and its first frame."""
    page = writer.page(("plain", "colour", "small", "on tissue"), 3, background="sector")
    written = np.zeros(page.picture.shape[:2], dtype=np.bool_)
    for line in page.lines:
        around = line.box.grown(3, page.picture.shape)
        written[around.top : around.bottom, around.left : around.right] = True
    moving = (page.picture.max(axis=2) > 0) & ~written
    stack = np.repeat(page.picture[None], FRAMES, axis=0)
    for number in range(1, FRAMES):
        stack[number][moving] = np.roll(page.picture, 7 * number, axis=1)[moving]
    ds, syntax = as_rgb(page.picture)
    single = as_bytes(ds, syntax)
    ds.SOPClassUID, ds.NumberOfFrames, ds.FrameTime = "1.2.840.10008.5.1.4.1.1.3.1", str(FRAMES), "33"
    ds.PixelData = stack.tobytes()
    return page, as_bytes(ds, syntax), single


def once(writer: Writer) -> tuple[Page, bytes]:
    """Return a clip in which the lines are in one frame only, some over tissue."""
    page = writer.page((), 0, background="sector")
    empty = page.picture.copy()
    other = Writer(writer.half, writer.draw.randint(0, 10**6))
    for kind in ("plain", "colour", "on tissue"):
        other._place(page, other._identifying(kind), kind)
    stack = np.stack([np.roll(empty, 5 * number, axis=1) for number in range(12)])
    stack[6] = page.picture
    ds, syntax = as_rgb(page.picture)
    ds.SOPClassUID, ds.NumberOfFrames, ds.FrameTime = "1.2.840.10008.5.1.4.1.1.3.1", "12", "33"
    ds.PixelData = stack.tobytes()
    return page, as_bytes(ds, syntax)


def one_frame_score(score: Score, page: Page, data: bytes) -> None:
    """Clean a clip with text in frame 6, and compare that frame."""
    original = instance.read(data)
    result, report = PixelCleaner().clean(original, Identifiers())
    filled = ~redaction.outside(page.picture.shape[:2], report.boxes)
    layers = frames.layers_of(result)
    after = list(frames.all_shown(result, layers))[6].astype(np.float32).max(axis=2)
    for line in page.lines:
        piece = after[line.box.top : line.box.bottom, line.box.left : line.box.right]
        left = _correlation(piece, line.glyphs)
        score.worst = max(score.worst, left)
        inside = filled[line.box.top : line.box.bottom, line.box.left : line.box.right]
        gone = inside[line.glyphs].mean() >= COVERED and left < LIMIT
        score.lines[f"one frame of a clip: {line.kind}"].append(bool(gone))


def interval(good: int, n: int) -> str:
    """Return a share with its Clopper-Pearson interval of 95 %."""
    low = beta.ppf(0.025, good, n - good + 1) if good else 0.0
    high = beta.ppf(0.975, good + 1, n - good) if good < n else 1.0
    return f"{good} of {n} [{100 * low:.1f} %, {100 * high:.1f} %]"


def table(score: Score, clips: tuple[float, float]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "| lines of text | removed, with 95 % interval |"
    yield "|---|---|"
    identifying = {kind: found for kind, found in score.lines.items() if kind != "technical"}
    every = [one for found in identifying.values() for one in found]
    yield f"| **all that identify** | {interval(sum(every), len(every))} |"
    for kind, found in sorted(identifying.items()):
        yield f"| {kind} | {interval(sum(found), len(found))} |"
    for form, found in sorted(score.forms.items()):
        yield f"| in a file of {form} | {interval(sum(found), len(found))} |"
    yield ""
    technical = score.lines["technical"]
    yield f"Technical labels kept bit for bit: {interval(sum(technical), len(technical))}."
    yield f"Highest correlation of what is left with the glyphs: {score.worst:.2f} (limit {LIMIT})."
    yield (
        "Pixels outside all lines (and 24 pixels around them) that changed: "
        f"{100 * np.mean(score.changed):.3f} % on average, {100 * max(score.changed):.2f} % at most."
    )
    yield (
        f"Processor time per distinct frame of {ROWS} x {COLUMNS}, up to {len(KINDS) + 5} lines in it, one "
        f"thread, search of the result included: median {np.median(score.cpu):.2f} s, highest "
        f"{max(score.cpu):.2f} s (n = {len(score.cpu)})."
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    yield (
        f"A clip of {FRAMES} frames with text that stays: {clips[1]:.2f} s, "
        f"{clips[1] / clips[0]:.1f} times its first frame alone. Memory of the process: {memory} MiB."
    )


def choose(count: int) -> None:
    """Print, for the half that chooses, the lines that scales and thresholds miss."""
    made = [Writer("choose", number).page() for number in range(count)]
    for scale in (1.0, 1.25, 1.5):
        start = time.process_time()
        for page in made:
            ocr.find(page.picture, Search(scale=scale))
        cpu = (time.process_time() - start) / count
        for threshold, least in ((0.3, 0.5), (0.2, 0.3), (0.1, 0.15)):
            search, missed, lines, false = Search(scale=scale, threshold=threshold, least=least), 0, 0, 0
            for page in made:
                found = ocr.find(page.picture, search)
                lines += len(page.lines)
                missed += sum(
                    max((one.box.shared(line.box) for one in found), default=0) < COVERED * line.box.area
                    for line in page.lines
                )
                false += sum(not any(one.box.shared(line.box) for line in page.lines) for one in found)
            print(
                f"scale {scale}, {threshold}, {least}: missed {missed} of {lines}, false {false}, {cpu:.2f} s"
            )


def main() -> None:
    """Measure, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pages", type=int, default=2, help="pictures per form of file")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if arguments.choose:
        choose(arguments.pages * 5)
        return
    ocr.find(np.zeros((64, 64, 3), np.uint8))
    first = as_rgb(Writer("choose", 0).page().picture)
    burned_text.lines(
        instance.read(as_bytes(*first)),
        frames.layers_of(instance.read(as_bytes(*first))),
        TextRule(Identifiers()),
        burned_text.Reader(),
    )  # fmt: skip (the models are loaded)
    score = Score()
    for at, (form, write) in enumerate(FORMS.items()):
        for number in range(arguments.pages):
            page = Writer("measure", 100 * at + number).page()
            measure(score, page, form, as_bytes(*write(page.picture)))
    for number in range(arguments.pages * 2):
        one_frame_score(score, *once(Writer("measure", 5000 + number)))
    page, moving, single = clip(Writer("measure", 9000))
    costs = []
    for data in (single, moving):
        start = time.process_time()
        PixelCleaner().clean(instance.read(data), Identifiers())
        costs.append(time.process_time() - start)
    lines = list(table(score, (costs[0], costs[1])))
    print("\n".join(lines))
    if arguments.write:
        pages.put(arguments.write, "burned-text", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
