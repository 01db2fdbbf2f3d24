"""The page of the review: what it shows, and what it refuses from strangers."""

from __future__ import annotations

import http.client
import re
import socket
import time
from urllib.parse import urlencode

import pytest
from deid_samples import clean

pytest.importorskip("starlette", reason="the page needs meninx[ocr]")
pytest.importorskip("uvicorn", reason="the page needs meninx[ocr]")

from meninx.deid.review import layouts
from meninx.deid.review.layouts import read_decisions
from meninx.deid.review.review_desk import opened
from meninx.deid.review.review_server import serving
from meninx.serving import local_page

FORM = "application/x-www-form-urlencoded"


class Browser:
    """A client of the page that can lie about everything."""

    def __init__(self, address) -> None:
        self.port, self.url = address.port, address.url
        self.cookie = self.get(address.url.partition(str(address.port))[2], cookie="").headers["Set-Cookie"]
        self.cookie = self.cookie.partition(";")[0]

    def get(self, path: str, **headers: str):
        return self.ask("GET", path, None, headers)

    def post(self, path: str, fields=None, *, token: str | None = None, **headers: str):
        token = self.token() if token is None else token
        body = urlencode({"form_token": token, **(fields or {})}, doseq=True).encode()
        given = {"origin": f"http://127.0.0.1:{self.port}", "content_type": FORM} | headers
        return self.ask("POST", path, body, given)

    def token(self) -> str:
        return re.search('name="form_token" value="([0-9a-f]{64})"', self.get("/layout/0").text).group(1)

    def ask(self, method: str, path: str, body, headers: dict[str, str]):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"cookie": getattr(self, "cookie", "")} | headers
        sent = {name.replace("_", "-"): value for name, value in sent.items() if value}
        connection.request(method, path, body, headers=sent)
        answer = connection.getresponse()
        answer.content = answer.read()
        answer.text = answer.content.decode("utf-8", "replace")
        connection.close()
        return answer


@pytest.fixture
def folder(archive):
    clean(archive)
    return archive / "out"


@pytest.fixture
def browser(archive, folder):
    with (
        opened(folder, reviewer="Anna <b>", source=archive / "in") as desk,
        serving(desk, source=archive / "in") as address,
    ):
        yield Browser(address)


def choices(folder):
    path = folder / "private" / layouts.DECISIONS
    return [str(one.choice) for one in read_decisions(path)] if path.exists() else []


def test_the_list_shows_every_layout_also_one_without_a_box(browser):
    page = browser.get("/")
    assert page.status == 200
    assert page.text.count("<li>") == 3
    assert "nothing found" in page.text
    assert "0 of 3 layouts decided, 0 of 4 images" in page.text
    assert "Anna &lt;b&gt;" in page.text
    for path in ("/", "/layout/0", "/layout/2"):
        assert not re.search(
            r"<script(?! src=\"/review\.js\" defer)|<style|\son\w+=|style=|https?://", browser.get(path).text
        )


def test_a_layout_is_decided_by_its_form_and_the_next_one_follows(browser, folder):
    page = browser.get("/layout/0").text
    assert 'class="found" x="3" y="4" width="37" height="6"' in page  # what is filled in both images
    assert 'class="first" x="4" y="4" width="20" height="6"' in page  # what is found in the first one
    assert 'class="kept"' in page
    answer = browser.post("/layout/0/vote", {"choice": "accept"})
    assert (answer.status, answer.headers["Location"]) == (303, "/layout/1")
    assert choices(folder) == ["accept"]
    answer = browser.post("/layout/2/vote", {"choice": "redact", "boxes": "1 1 9 9; 20 20 30 30"})
    assert answer.headers["Location"] == "/layout/1"
    answer = browser.post("/layout/1/vote", {"choice": "keep", "keep": ["0"]})
    assert answer.headers["Location"] == "/"
    assert sorted(choices(folder)) == ["accept", "keep", "redact"]
    text = browser.get("/").text
    assert "3 of 3 layouts decided, 4 of 4 images" in text
    assert "--decisions" in text
    assert browser.post("/undo").headers["Location"] == "/layout/1"
    assert sorted(choices(folder)) == ["accept", "redact"]


def test_pictures_come_by_index(browser):
    for path in ("before", "small", "after", "after?image=1"):
        answer = browser.get(f"/picture/0/{path}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
        assert answer.content.startswith(b"\x89PNG")
    for path in (
        "/picture/0/mask", "/picture/9/before", "/picture/-1/before", "/picture/0/after?image=2",
        "/picture/../../etc/passwd", "/picture/%2e%2e%2f%2e%2e%2fetc/before", "/picture/0/..%2fx",
        "/picture/0/after?image=..%2f..", "/picture/" + "9" * 5000 + "/before",
        "/picture/%D9%A3/before",
        "/layout/3", "/layout/x", "/?page=1", "/?page=-1", "/private/decisions.csv", "/../private/lock",
    ):  # fmt: skip
        assert browser.get(path).status == 404, path


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"choice": "burn"}, {"choice": "undo"}, {"choice": "redact"},
        {"choice": "redact", "boxes": "1 1 9"},
        {"choice": "redact", "boxes": "1 1 9 99999"}, {"choice": "redact", "boxes": "-1 1 9 9"},
        {"choice": "redact", "boxes": "1 1 9 9;" * 501}, {"choice": "keep"}, {"choice": "keep", "keep": "7"},
        {"choice": "accept", "boxes": "1 1 9 9"}, {"choice": "keep", "keep": "0", "boxes": "1 1 9 9"},
        {"choice": "keep", "keep": "../x"}, {"choice": "redact", "boxes": "<script>"},
    ],
)  # fmt: skip
def test_a_form_without_a_decision_changes_nothing_and_says_why(browser, folder, fields):
    answer = browser.post("/layout/0/vote", fields)
    assert answer.status == 400
    assert 'role="alert"' in answer.text
    assert choices(folder) == []


def test_nothing_is_shown_without_the_cookie_and_the_token_works_once(browser):
    path = browser.url.partition(str(browser.port))[2]
    assert browser.get(path, cookie="a=b").status == 403
    for where in ("/", "/layout/0", "/picture/0/before", "/style.css", "/review.js", "/nowhere"):
        answer = browser.get(where, cookie="a=b")
        assert (answer.status, "Sono" in answer.text) == (403, False)
    assert browser.cookie.startswith(f"meninx_{browser.port}=")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1"])
def test_a_foreign_host_is_refused(browser, folder, host):
    host = host.format(port=browser.port)
    assert browser.get("/", host=host).status == 421
    assert browser.post("/layout/0/vote", {"choice": "accept"}, host=host).status == 421
    assert choices(folder) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": ""},
        {"origin": "http://127.0.0.1:1"}, {"origin": "https://127.0.0.1:{port}"},
        {"origin": "http://localhost:{port}"}, {"sec_fetch_site": "cross-site"}, {"cookie": "a=b"},
        {"content_type": "text/plain"}, {"content_type": "application/json"}, {"content_type": ""},
    ],
)  # fmt: skip
def test_a_form_of_another_page_is_refused(browser, folder, headers):
    given = {name: value.format(port=browser.port) for name, value in headers.items()}
    assert browser.post("/layout/0/vote", {"choice": "accept"}, **given).status in (403, 415)
    assert browser.post("/undo", **given).status in (403, 415)
    assert choices(folder) == []


@pytest.mark.parametrize("token", ["", "0" * 64, "%00"])
def test_a_form_without_its_token_is_refused(browser, folder, token):
    assert browser.post("/layout/0/vote", {"choice": "accept"}, token=token).status == 403
    assert choices(folder) == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(browser, method):
    answer = browser.ask(method, "/layout/0/vote", None, {})
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")


def test_get_never_votes(browser, folder):
    assert browser.get("/layout/0/vote?choice=accept").status in (404, 405)
    assert choices(folder) == []


def test_a_large_body_is_refused_before_it_is_read(browser, folder):
    with socket.create_connection(("127.0.0.1", browser.port)) as line:
        line.sendall(_head(browser, 10 << 20) + b"x" * 1000)
        line.settimeout(5)
        assert b" 413 " in line.recv(200)
    with socket.create_connection(("127.0.0.1", browser.port)) as line:
        line.settimeout(5)
        line.sendall(_head(browser, None))
        try:
            for _ in range(200):
                line.sendall(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")
        except OSError:
            pass
        answer = b""
        try:
            answer = line.recv(200)
        except ConnectionError:
            return
        assert b" 413 " in answer
    assert choices(folder) == []


def test_a_body_that_does_not_arrive_is_given_up(browser, folder, monkeypatch):
    monkeypatch.setattr(local_page, "BODY_SECONDS", 0.2)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", browser.port)) as line:
        line.settimeout(5)
        line.sendall(_head(browser, 100) + b"choice=")
        assert b" 408 " in line.recv(200)
    assert time.monotonic() - began < 4
    assert browser.get("/").status == 200


def _head(browser, length: int | None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    port = browser.port
    lines = ["POST /undo HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}"]
    lines += [f"Cookie: {browser.cookie}", f"Content-Type: {FORM}", size, "", ""]
    return "\r\n".join(lines).encode()


def test_every_answer_carries_the_protective_headers(browser):
    for answer in (
        browser.get("/"),
        browser.get("/", cookie="a=b"),
        browser.post("/undo"),
        browser.get("/x"),
    ):
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "form-action 'self'" in policy
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_a_header_says_is_no_markup(archive, written):
    written[:] = ["<script>alert(1)</script>", 0.9]
    clean(archive)
    with opened(archive / "out", reviewer="A") as desk, serving(desk) as address:
        browser = Browser(address)
        for path in ("/", "/layout/0"):
            assert "<script>alert" not in browser.get(path).text
            assert "&lt;script&gt;alert" in browser.get(path).text


def test_of_two_persons_the_second_does_not_see_the_first_vote_before_voting_and_both_settle_it(folder):
    with opened(folder, reviewer="Anna", two_person=True) as desk, serving(desk) as address:
        Browser(address).post("/layout/0/vote", {"choice": "quarantine"})
    with opened(folder, reviewer="Bert", two_person=True) as desk, serving(desk) as address:
        browser = Browser(address)
        for path in ("/", "/layout/0"):
            assert "kept out" not in browser.get(path).text.replace("keep 2 images out", "")
            assert "Anna" not in browser.get(path).text
        browser.post("/layout/0/vote", {"choice": "accept"})
        page = browser.get("/layout/0").text
        assert "Anna: kept out" in page
        assert "Your vote: accepted" in page
        assert "You differ, so the images are kept out. Vote again below" in page
        for index in (1, 2):
            browser.post(f"/layout/{index}/vote", {"choice": "accept"})
        page = browser.get("/").text
        assert "reviewers differ on 1" in page
        assert "Nothing waits for your vote" not in page
        assert "Settle layout 1" in page
        assert "you: accepted; Anna: kept out" in page
        assert choices(folder) == ["undecided"] * 3
        same = re.search('class="same">(.*?)</form>', browser.get("/layout/0").text, re.S).group(1)
        assert "Vote the same as Anna" in same
        given = dict(re.findall('name="(choice|boxes|keep)" value="([^"]*)"', same))
        browser.post("/layout/0/vote", given)
        page = browser.get("/").text
        assert "reviewers differ" not in page
        assert "Nothing waits for your vote.</strong> 2 layouts wait for a second reviewer" in page
        assert "this run would keep 2 images out" in page
    assert sorted(choices(folder)) == ["quarantine", "undecided", "undecided"]


@pytest.mark.parametrize(
    ("first", "second"),
    [({"choice": "redact", "boxes": "1 1 9 9; 20 20 30 30"}, {"choice": "accept"}),
     ({"choice": "keep", "keep": ["0"]}, {"choice": "quarantine"})],
)  # fmt: skip
def test_the_vote_of_the_other_reviewer_is_taken_over_with_its_boxes(folder, first, second):
    for reviewer, fields in (("Anna", first), ("Bert", second)):
        with opened(folder, reviewer=reviewer, two_person=True) as desk, serving(desk) as address:
            browser = Browser(address)
            browser.post("/layout/0/vote", fields)
            page = browser.get("/layout/0").text
            if reviewer == "Bert":
                assert page.count('class="other"') == first.get("boxes", "").count(";") * 2
                same = re.search('class="same">(.*?)</form>', page, re.S).group(1)
                given = dict(re.findall('name="(choice|boxes|keep)" value="([^"]*)"', same))
                browser.post("/layout/0/vote", given)
    [one] = read_decisions(folder / "private" / layouts.DECISIONS)
    assert (str(one.choice), one.reviewers) == (first["choice"], "Anna; Bert")
    assert len(one.chosen) == (2 if "boxes" in first else 1)


def test_two_persons_who_drag_other_rectangles_agree_and_the_page_says_that_both_are_filled(folder):
    for reviewer, box in (("Anna", "20 28 30 33"), ("Bert", "22 29 34 35")):
        with opened(folder, reviewer=reviewer, two_person=True) as desk, serving(desk) as address:
            browser = Browser(address)
            browser.post("/layout/0/vote", {"choice": "redact", "boxes": box})
            page = browser.get("/layout/0").text
    assert "What one of you wants filled is filled: the rectangles of all." in page
    assert choices(folder) == ["redact"]
    [one] = read_decisions(folder / "private" / layouts.DECISIONS)
    assert [tuple(box) for box in one.chosen] == [(20, 28, 30, 33), (22, 29, 34, 35)]


def test_the_list_of_a_folder_that_was_not_searched_says_so(archive):
    clean(archive, pixels="keep")
    with opened(archive / "out", reviewer="Anna") as desk, serving(desk) as address:
        page = Browser(address).get("/").text
    assert (
        "4 images may show text in their pixels, which were not searched; look at private/review.html" in page
    )
    assert "There is nothing to decide" in page
    assert "Nothing waits" not in page
    assert "A layout is the images" not in page


def test_the_page_of_a_layout_without_boxes_says_nothing_of_keeping_text(browser):
    assert "Keep text only" in browser.get("/layout/0").text
    assert "Keep text only" not in browser.get("/layout/2").text
