"""The review as a reviewer sees it: the command, a browser with keys and a drag, and the run afterwards."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from deid_samples import clean, image, images, save, tree

pytest.importorskip("starlette", reason="the page needs meninx[ocr]")

from meninx.deid import cleaner
from meninx.deid.burned_in import burned_text
from meninx.deid.review import layouts
from meninx.deid.review.layouts import read_decisions
from meninx.deid.review.review_desk import opened
from meninx.deid.review.review_votes import VoteKind
from meninx.imaging import ocr
from meninx.imaging.ocr import Box, Found, Reading

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ROWS, COLUMNS = 120, 200
MISSED = Box(120, 80, 160, 90)  # text that the search does not find


@pytest.fixture(autouse=True)
def search(monkeypatch):
    """A search that finds white lines at the left edge only, and reads a name in them."""

    def find(picture, search):
        rows = np.flatnonzero((picture[:, 4:10, 0] > 200).any(axis=1))
        starts = [row for row in rows if row - 1 not in rows]
        found = []
        for top in starts:
            bottom = next(row for row in range(top, ROWS + 1) if row not in rows)
            right = int(np.flatnonzero(picture[top, :110, 0] > 200).max()) + 1
            found.append(Found(Box(4, int(top), right, int(bottom)), 0.9))
        return found

    made = burned_text.Reader(find, lambda *given: Reading("AXIAL CHEST", 0.9), lambda *given: None)
    real = cleaner.PixelCleaner
    monkeypatch.setattr(ocr, "is_available", lambda: True)
    monkeypatch.setattr(cleaner, "PixelCleaner", lambda *given: real(*given, reader=made))


def capture(number: int, device: int, lines: int):
    """Return a capture with lines of text at the left, of names of different lengths."""
    ds = image(number, Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ConversionType="WSD")
    ds.Manufacturer, ds.ManufacturerModelName = "ACME", f"Sono {device}"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = ROWS, COLUMNS, 8, 8, 7
    values = np.full((ROWS, COLUMNS), 30, np.uint8)
    for line in range(lines):
        top = 6 + 22 * line
        values[top : top + 10, 4 : 50 + number % 50] = 255
    values[MISSED.top : MISSED.bottom, MISSED.left : MISSED.right] = 255 if device == 1 else 30
    ds.PixelData = values.tobytes()
    return ds


def archive(folder: Path, count: int, devices: int) -> Path:
    for number in range(count):
        device = number % devices
        save(capture(number + 1, device, 1 + device % 4), folder / "in" / f"{number:04}.dcm")
    clean(folder)
    return folder / "out"


@contextlib.contextmanager
def review(*words: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run the command and yield the process and the address that it printed."""
    command = [sys.executable, "-m", "meninx", "review", *map(str, words), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            stream = process.stderr if "--json" in words else process.stdout
            yield process, stream.readline().strip()
        finally:
            if process.poll() is None:
                process.kill()


def test_ctrl_c_ends_the_review_with_the_counts(tmp_path):
    folder = archive(tmp_path, 4, 2)
    with review(folder, "--source", tmp_path / "in", "--json", "--reviewer", "Anna") as (process, url):
        assert url.startswith("http://127.0.0.1:")
        second = [sys.executable, "-m", "meninx", "review", str(folder), "--no-browser"]
        busy = subprocess.run(second, capture_output=True, text=True, timeout=60, check=False)
        assert (busy.returncode, "another process" in busy.stderr) != (0, False)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    counts = json.loads(out)
    assert (counts["layouts"], counts["open"], counts["decided"], counts["images"]) == (2, 2, 0, 4)


class Driver:
    """A headless Chromium, driven by the WebDriver protocol."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [str(DRIVER), "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        port = ""
        while not port:
            line = self._process.stdout.readline()
            port = line.rpartition("on port ")[2].strip(" .\n") if "successfully" in line else ""
        self._root = f"http://127.0.0.1:{port}/session"
        flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-extensions
            --disable-background-networking --disable-component-update --disable-sync
            --window-size=1280,1100"""
        flags = [*flags.split(), "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        options = {"args": [*flags, f"--user-data-dir={folder / 'browser'}"], "binary": CHROMIUM}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._send("", {"capabilities": {"alwaysMatch": wanted}})
        self._root += f"/{made['sessionId']}"

    def _send(self, path: str, table: dict | None = None, method: str = ""):
        body = None if table is None else json.dumps(table).encode()
        request = urllib.request.Request(self._root + path, body, method=method or None)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def open(self, url: str) -> None:
        self._send("/url", {"url": url})

    @property
    def url(self) -> str:
        return self._send("/url")

    def js(self, script: str):
        return self._send("/execute/sync", {"script": f"return {script}", "args": []})

    def press(self, key: str) -> None:
        steps = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._send("/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        (x, y), (to_x, to_y) = (tuple(map(round, point)) for point in (start, end))
        steps = [
            {"type": "pointerMove", "x": x, "y": y, "duration": 0}, {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "x": to_x, "y": to_y, "duration": 50}, {"type": "pointerUp", "button": 0},
        ]  # fmt: skip
        self._send("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def messages(self) -> list[str]:
        return [one["message"] for one in self._send("/se/log", {"type": "browser"})]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("/screenshot")))

    def arrives(self, path: str) -> None:
        end = time.monotonic() + 20
        while not self.url.endswith(path):
            assert time.monotonic() < end, self.url
            time.sleep(0.05)

    def close(self) -> None:
        try:
            self._send("", method="DELETE")
        finally:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and its driver are not installed")
def test_a_reviewer_decides_by_keys_and_drags_a_box_over_text_that_was_missed(tmp_path):
    folder = archive(tmp_path, 6, 3)
    with review(folder, "--source", tmp_path / "in", "--reviewer", "Anna") as (process, url):
        driver = Driver(tmp_path)
        try:
            driver.open(url)
            driver.press("n")  # from the list to the first layout
            driver.arrives("/layout/0")
            driver.press("q")
            driver.arrives("/layout/1")
            driver.press("u")
            driver.arrives("/layout/0")
            driver.press("a")
            driver.arrives("/layout/1")
            driver.press("r")
            assert "Drag a rectangle" in driver.js("document.getElementById('hint').textContent")
            frame = driver.js("document.getElementById('boxes').getBoundingClientRect().toJSON()")
            scale = frame["width"] / COLUMNS
            left, top = frame["x"], frame["y"]
            driver.drag(
                (left + (MISSED.left - 4) * scale, top + (MISSED.top - 4) * scale),
                (left + (MISSED.right + 4) * scale, top + (MISSED.bottom + 4) * scale),
            )
            drawn = driver.js("document.getElementById('more').value")
            if place := os.environ.get("MENINX_REVIEW_PICTURE"):
                driver.picture(Path(place))
            driver.press("a")  # would ignore the rectangle
            assert "Press r" in driver.js("document.getElementById('hint').textContent")
            driver.press("r")
            driver.arrives("/layout/2")
            driver.press("k")
            driver.press("k")
            driver.arrives("/")
            shown = driver.js("document.body.innerText")
            found = driver.messages()
        finally:
            driver.close()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert not [one for one in found if "favicon" not in one], found
    assert "3 of 3 layouts decided, 6 of 6 images" in shown
    assert "3 of 3 layouts decided" in out
    box = Box(*map(int, drawn.split()))
    assert box.shared(MISSED) == MISSED.area
    decided = folder / "private" / layouts.DECISIONS
    by_device = {one.mask.model: (str(one.choice), len(one.chosen)) for one in read_decisions(decided)}
    assert by_device == {"Sono 0": ("accept", 0), "Sono 1": ("redact", 1), "Sono 2": ("keep", 3)}
    clean(tmp_path, decisions=decided, overwrite=True)
    assert images(folder)
    assert not any(
        (pydicom.dcmread(path).pixel_array[MISSED.top : MISSED.bottom, MISSED.left :] > 200).any()
        for path in images(folder)
    )


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and its driver are not installed")
def test_two_reviewers_drag_over_the_same_text_and_settle_what_they_differ_on(tmp_path):
    folder, decided = archive(tmp_path, 6, 3), tmp_path / "out" / "private" / layouts.DECISIONS
    words = (folder, "--source", tmp_path / "in", "--two-person")
    driver = Driver(tmp_path)

    def dragged(by: int) -> None:
        driver.arrives("/layout/1")
        frame = driver.js("document.getElementById('boxes').getBoundingClientRect().toJSON()")
        scale, left, top = frame["width"] / COLUMNS, frame["x"], frame["y"]
        driver.drag(
            (left + (MISSED.left - by) * scale, top + (MISSED.top - by) * scale),
            (left + (MISSED.right + by // 2) * scale, top + (MISSED.bottom + by) * scale),
        )
        driver.press("r")
        driver.arrives("/layout/2")

    try:
        for reviewer, first, by in (("Anna", "a", 4), ("Bert", "q", 7)):
            with review(*words, "--reviewer", reviewer) as (process, url):
                driver.open(url)
                driver.js("document.getElementById('next').click()")
                driver.arrives("/layout/0")
                driver.press(first)
                dragged(by)
                driver.press("a")
                driver.arrives("/")
                if reviewer == "Bert":
                    assert "Reviewers differ on 1 layout" in driver.js("document.body.innerText")
                    driver.js("document.getElementById('next').click()")  # to the layout on which they differ
                    driver.arrives("/layout/0")
                    shown = driver.js("document.body.innerText")
                    if place := os.environ.get("MENINX_DIFFER_PICTURE"):
                        driver.picture(Path(place))
                    before = {str(one.choice) for one in read_decisions(decided)}
                    driver.js("document.querySelector('.same button').click()")
                    driver.arrives("/")
                    settled = driver.js("document.body.innerText")
                    found = driver.messages()
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=20)
    finally:
        driver.close()
    assert not [one for one in found if "favicon" not in one], found
    assert "Your vote: kept out" in shown
    assert "Anna: accepted" in shown
    assert before == {"undecided", "redact", "accept"}
    assert "Nothing waits for your vote" in settled
    by_device = {one.mask.model: one for one in read_decisions(decided)}
    assert {name: str(one.choice) for name, one in by_device.items()} == {
        "Sono 0": "accept", "Sono 1": "redact", "Sono 2": "accept",
    }  # fmt: skip
    assert len(by_device["Sono 1"].chosen) == 2
    assert by_device["Sono 1"].reviewers == "Anna; Bert"


@pytest.mark.slow
def test_a_thousand_images_of_forty_layouts_take_forty_decisions(tmp_path):
    folder = archive(tmp_path, 1000, 40)
    with opened(folder, reviewer="Anna") as desk:
        index, votes = desk.next_open(-1), 0
        while index is not None:
            desk.vote(index, VoteKind.ACCEPT)
            index, votes = desk.next_open(index), votes + 1
        result = desk.result()
    assert votes <= 40
    assert (result.decided, result.layouts, result.images_decided) == (40, 40, 1000)
    decided = folder / "private" / layouts.DECISIONS
    clean(tmp_path, decisions=decided, overwrite=True)
    first = tree(folder)
    record = json.loads((folder / "deid.json").read_text())
    assert (record["files_written"], record["layouts"]) == (1000, 40)
    clean(tmp_path, out="again", decisions=decided)
    second = tree(tmp_path / "again")
    assert {name: data for name, data in first.items() if not name.startswith("private/")} == {
        name: data for name, data in second.items() if not name.startswith("private/")
    }
