"""The whole way by command line, then a search of all that is not private for what was planted."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shlex
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from meninx.cli.app import run
from meninx.demo.commands import Command, commands
from meninx.demo.config import DemoConfig
from meninx.synthetic import AnswerKey, PhantomConfig, write_archives

pytestmark = pytest.mark.slow  # two federated studies of three hospitals take a minute of processor time
HOSPITALS = ("north", "south", "east")
SIZES = {
    "train-non-private": {"--rounds": "2", "--local-epochs": "1"},
    "train-private": {"--rounds": "2", "--local-steps": "2"},
}
POOLED = "runs/non-private/baselines/pooled-data"  # the dataset that no hospital could make
IMAGES = re.compile(rb"data:[a-z/+]+;base64,([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class Way:
    """Where everything lies, what was said on the way, and the truth."""

    root: Path
    key: AnswerKey
    said: dict[str, str] = field(default_factory=dict)

    def public(self) -> Iterator[tuple[str, bytes]]:
        """Yield (place, bytes) of all that is neither private, nor a key, nor an original."""
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root)
            inner = (
                name.parts[2:] if name.parts[0] == "runs" else name.parts
            )  # the demo calls one study "private"
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
            if not re.match(rf"(name of )?(clean|data|{POOLED})\b", place)
        )

    def rooms(self) -> list[Path]:
        """Return every private folder: of a stage or of a run."""
        found = [path for path in self.root.rglob("private") if path.is_dir()]
        return [path for path in found if path.parent.name != "runs"]  # a study of the demo has this name


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


def words(step: Command) -> list[str]:
    """Return the command that a user types, with a training of seconds."""
    typed = shlex.split(step.line)[1:]
    for flag, value in SIZES.get(step.name, {}).items():
        typed[typed.index(flag) + 1] = value
    return typed


@pytest.fixture(scope="module")
def way(tmp_path_factory) -> Way:
    root = tmp_path_factory.mktemp("way") / "demo"
    config = PhantomConfig(patients=40, hospitals=HOSPITALS, size=64, ct_patients=0)
    found = Way(root, write_archives(config, root / "hospitals"))
    capture = pytest.MonkeyPatch()
    with capture.context() as patch:
        for step in commands(DemoConfig(patients=40, size=32), root, HOSPITALS):
            said = io.StringIO()
            patch.setattr("sys.stdout", said)
            patch.setattr("sys.stderr", said)
            code = run(words(step))
            found.said[step.name] = said.getvalue()
            assert code == 0, found.said[step.name]
    return found


def test_nothing_planted_is_in_anything_that_is_not_private(way):
    places = {place for place, _ in way.public()}
    for needed in (
        "report.html",
        "data/north/manifest.csv",
        "clean/north/deid.json",
        "clean/north/audit.jsonl",
        "said by report",
    ):
        assert needed in places
    for needed in (
        "MODEL_CARD.md|README.md",
        "config.toml",
        "environment.json",
        "privacy.json",
        "evaluation.json",
        "model.onnx",
    ):
        found_places = [place for place in places if re.search(rf"runs/.*({needed})$", place)]
        assert len(found_places) >= 2 * len(HOSPITALS), needed
    assert not found(way.public(), way.key.needles())


def test_what_is_released_names_no_case_and_no_patient(way):
    rows = []
    for hospital in HOSPITALS:
        with (way.root / "data" / hospital / "manifest.csv").open(newline="") as stream:
            rows += csv.DictReader(stream)
    names = {row[column].encode() for row in rows for column in ("case_id", "patient_id", "study")}
    assert len(names) > 100
    assert found(way.public(), names), "the tables of cases name them, or this test sees nothing"
    assert not found(way.released(), names)


def test_no_prediction_of_a_case_is_released(way):
    tables = list((way.root / "runs").rglob("private/predictions/*.csv"))
    assert len(tables) >= 2
    values = {value.encode() for path in tables for value in re.findall(r"0\.\d{5,}", path.read_text())}
    assert len(values) > 50
    assert not found(way.released(), values)


def test_private_rooms_are_closed(way):
    rooms = way.rooms()
    stages, parts, baselines, coordinators = 2 * len(HOSPITALS), 2 * len(HOSPITALS), len(HOSPITALS) + 1, 2
    assert len(rooms) == stages + parts + baselines + coordinators
    assert [path for path in rooms if stat.S_IMODE(path.stat().st_mode) != 0o700] == []
    for path in (way.root / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_key_and_no_seed_of_the_noise_is_public(way):
    secrets = [path.read_bytes() for path in (way.root / "keys").iterdir()]
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
    assert not found(way.public(), forms)
    for path in (way.root / "runs").rglob("privacy.json"):
        assert "seed" not in json.loads(path.read_text())


def test_pictures_of_cases_carry_no_words(way):
    pictures = sorted((way.root / "data").glob("*/images/*.png"))
    assert len(pictures) > 50
    for path in pictures:
        with Image.open(path) as picture:
            assert not picture.info.keys() - {"gamma", "dpi"}, path.name
        assert set(chunks(path.read_bytes())) <= {b"IHDR", b"IDAT", b"IEND"}


def chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def test_a_leak_anywhere_is_seen(way):
    """Plant a name in one public file of each kind: the search sees it."""
    name = next(text for text in sorted(way.key.strings()) if text.isascii() and len(text) > 6)
    paths = [
        way.root / place for place in ("report.html", "data/north/prepare.json", "clean/south/deid.json")
    ]
    before = [path.read_bytes() for path in paths]
    try:
        for path, content in zip(paths, before, strict=True):
            path.write_bytes(content + name.upper().encode())
        assert found(way.public(), {name.encode()}) == {
            path.relative_to(way.root).as_posix() for path in paths
        }
    finally:
        for path, content in zip(paths, before, strict=True):
            path.write_bytes(content)
