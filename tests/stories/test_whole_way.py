"""The whole way by command line, then a search of all that is not private for what was planted."""

from __future__ import annotations

import io
import json
import re
import shlex
import stat
from collections.abc import Iterator

import pytest
from leak_search import Way, forms_of_keys, found, names_of_cases, predicted
from PIL import Image

from meninx.cli.app import run
from meninx.demo.commands import Command, commands
from meninx.demo.config import DemoConfig
from meninx.synthetic import PhantomConfig, write_archives

pytestmark = pytest.mark.slow  # two federated studies take a minute; test_docs.py searches the tutorial
HOSPITALS = ("north", "south", "east")
SIZES = {
    "train-non-private": {"--rounds": "2", "--local-epochs": "1"},
    "train-private": {"--rounds": "2", "--local-steps": "2"},
}
BOUNDS = re.compile(r"/audit/bounds\.(csv|json)$")
POOLED = "runs/non-private/baselines/pooled-data"  # the dataset that no hospital could make


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
    done = Way(root, write_archives(config, root / "hospitals"), datasets=(POOLED,))
    capture = pytest.MonkeyPatch()
    with capture.context() as patch:
        for step in commands(DemoConfig(patients=40, size=32), root, HOSPITALS):
            said = io.StringIO()
            patch.setattr("sys.stdout", said)
            patch.setattr("sys.stderr", said)
            code = run(words(step))
            done.said[step.name] = said.getvalue()
            assert code == 0, done.said[step.name]
    return done


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
    names = names_of_cases((way.root / "data").glob("*/manifest.csv"))
    assert len(names) > 100
    assert found(way.public(), names), "the tables of cases name them, or this test sees nothing"
    assert not found(way.released(), names)


def test_no_prediction_of_a_case_is_released(way):
    values = predicted(way.root / "runs")
    assert len(values) > 50
    # The bounds are computed from the plan alone. By chance, a number of 16 digits begins like one of the
    # predictions, which have six.
    bounds = [item for item in way.released() if BOUNDS.search(item[0])]
    assert bounds
    assert not found((item for item in way.released() if not BOUNDS.search(item[0])), values)
    assert not found(iter(bounds), {value + end for value in values for end in (b",", b"\n", b"]", b"}")})


def test_private_rooms_are_closed(way):
    rooms = way.rooms()
    stages, parts, baselines, coordinators = 2 * len(HOSPITALS), 2 * len(HOSPITALS), len(HOSPITALS) + 1, 2
    assert len(rooms) == stages + parts + baselines + coordinators
    assert [path for path in rooms if stat.S_IMODE(path.stat().st_mode) != 0o700] == []
    for path in (way.root / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_key_and_no_seed_of_the_noise_is_public(way):
    assert not found(way.public(), forms_of_keys(way))
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
