"""A search of all that a pipeline leaves outside private rooms: for what was planted, for cases, for keys."""

from __future__ import annotations

import base64
import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from meninx.synthetic import AnswerKey

IMAGES = re.compile(rb"data:[a-z/+]+;base64,([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class Way:
    """Where everything lies, the truth, and what was printed on the way.

    Attributes:
        root: with ``hospitals``, ``keys``, ``clean``, ``data`` and ``runs``.
        key: what was planted.
        said: name of a step -> what it printed.
        datasets: further folders, below ``root``, that hold images and tables of cases as ``data`` does.
    """

    root: Path
    key: AnswerKey
    said: dict[str, str] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()

    def public(self) -> Iterator[tuple[str, bytes]]:
        """Yield (place, bytes) of all that is neither private, nor a key, nor an original."""
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root)
            inner = (
                name.parts[2:] if name.parts[0] == "runs" else name.parts
            )  # a folder of runs may be called "private"
            if name.parts[0] in ("hospitals", "keys") or "private" in inner:
                continue
            yield f"name of {name}", str(name).encode()
            if path.is_file():
                yield from unpacked(str(name), path.read_bytes())
        for step, text in self.said.items():
            yield f"said by {step}", text.encode()

    def released(self) -> Iterator[tuple[str, bytes]]:
        """Yield what may leave the hospital with the model: public files but images and tables of cases."""
        return (
            (place, data)
            for place, data in self.public()
            if not re.match(rf"(name of )?({'|'.join(('clean', 'data', *self.datasets))})\b", place)
        )

    def rooms(self) -> list[Path]:
        """Return every private folder: of a stage or of a run."""
        found = [path for path in self.root.rglob("private") if path.is_dir()]
        return [path for path in found if path.parent.name != "runs"]


def unpacked(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of a file and of what is packed in it: archives, deflated data, images in a page."""
    yield name, data
    if data[128:132] == b"DICM" and b"1.2.840.10008.1.2.1.99" in data[:1024]:
        yield (
            f"{name}, inflated",
            zlib.decompressobj(-15).decompress(data[144 + int.from_bytes(data[140:144], "little") :]),
        )
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield f"{name}, {member}", member.encode() + archive.read(member)
    for picture in IMAGES.findall(data):
        yield f"{name}, a picture", base64.b64decode(picture)


def found(places: Iterator[tuple[str, bytes]], needles: set[bytes]) -> set[str]:
    lower = {needle.lower() for needle in needles}
    return {
        place for place, data in places for text in (data.lower(),) if any(needle in text for needle in lower)
    }


def names_of_cases(tables: Iterator[Path]) -> set[bytes]:
    """Return the identifiers of cases, patients and studies in the manifests of datasets."""
    names: set[bytes] = set()
    for path in tables:
        with path.open(newline="") as stream:
            names |= {
                row[column].encode()
                for row in csv.DictReader(stream)
                for column in ("case_id", "patient_id", "study")
            }
    return names


def predicted(root: Path) -> set[bytes]:
    """Return the probabilities in the tables of predictions of all runs, as they are printed there."""
    tables = list(root.rglob("private/predictions/*.csv"))
    assert len(tables) >= 2
    return {value.encode() for path in tables for value in re.findall(r"0\.\d{5,}", path.read_text())}


def forms_of_keys(way: Way) -> set[bytes]:
    """Return the keys of sites and of runs in every form in which one could be written."""
    places = [path for path in (way.root / "keys").iterdir() if path.suffix == ".key"]
    assert places
    secrets = [path.read_bytes() for path in places]
    runs = [path for path in (way.root / "runs").rglob("private/keys/*") if path.is_file()]
    assert {path.name for path in runs} >= {"noise.key", "sampling.key"}
    secrets += [path.read_bytes() for path in runs]
    forms = set()
    for secret in secrets:
        assert len(secret) >= 16
        raw = bytes.fromhex(secret.decode()) if re.fullmatch(rb"[0-9a-f]+", secret) else secret
        forms |= {
            secret,
            raw,
            raw.hex().encode(),
            base64.b64encode(raw)[:-3],
            str(int.from_bytes(raw, "big")).encode(),
        }
    return forms
