"""The doctor at a site: what would fail at night is found by day, and the clock is compared by https."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from bad_line import BadLine

from meninx.core import machine
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.federated import authority, code_hash, site_doctor, study
from meninx.federated.code_hash import CodeVersion
from meninx.federated.config import DataConfig, StudyConfig
from meninx.federated.line import NotAdmitted, Unreachable
from meninx.federated.site_doctor import CheckState, SiteExamination
from meninx.federated.study import StudyFolder
from meninx.synthetic import write_dataset


@contextmanager
def coordinator(folder: StudyFolder, *, ahead: timedelta = timedelta(), status: int = 404) -> Iterator[str]:
    """A server with the coordinator's certificate whose clock is wrong; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            self.send_header("Date", format_datetime(datetime.now(UTC) + ahead, usegmt=True))
            if status == 302:
                self.send_header("Location", "https://127.0.0.1:1/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.server_certificate_path, folder.server_key_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def folder(tmp_path: Path, patients: Path) -> StudyFolder:
    facts = DataConfig.of_dataset(Manifest.read(patients).info)
    return study.create(tmp_path / "lung", StudyConfig.of(data=facts, train={"model": "resnet9-small"}))


def states(found: SiteExamination) -> dict[str, CheckState]:
    return {check.name: check.state for check in found.checks}


def words(found: SiteExamination, name: str) -> str:
    return next(check.words for check in found.checks if check.name == name)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_a_site_that_is_ready_passes_and_nothing_is_written(consortium):
    site = consortium.sites["north"]
    before = {path: path.stat().st_mtime_ns for path in site.root.rglob("*") if path.name != "audit.lock"}
    found = site_doctor.examine(site.root, consortium.folder.study_path, consortium.data)
    assert found.failed == ()
    found.raise_if_failed()
    assert states(found)["clock"] is CheckState.UNKNOWN
    assert "not reachable now" in words(found, "clock")
    assert set(states(found)) == {
        *("keys", "policy", "audit log", "proxy", "disk", "GPU", "versions"),
        *("code", "terms", "enrolment", "certificate", "clock", "dataset", "weight", "budget"),
    }
    after = {path: path.stat().st_mtime_ns for path in site.root.rglob("*") if path.name != "audit.lock"}
    assert after == before


def test_without_a_study_the_machine_alone_is_examined(consortium):
    found = site_doctor.examine(consortium.sites["north"].root)
    assert len(found.checks) == 7
    with pytest.raises(UsageError, match="no site"):
        site_doctor.examine(consortium.folder.root)


def test_every_fault_has_its_sentence(consortium, tmp_path, monkeypatch):
    site = consortium.sites["north"]
    other = tmp_path / "other"
    write_dataset(other, patients=20, size=48)
    (site.root / "policy.toml").write_text("")
    (site.private / "audit.jsonl").write_bytes(b"")
    monkeypatch.setattr(machine, "free_disk", lambda root: 5 << 20)
    changed = CodeVersion(code_hash.installed().version, "e" * 64)
    monkeypatch.setattr(code_hash, "installed", lambda: changed)
    monkeypatch.setattr(authority, "WARNING_DAYS", 400)
    found = site_doctor.examine(site.root, consortium.folder.study_path, other)
    failed = {check.name for check in found.failed}
    assert failed == {"audit log", "disk", "code", "terms", "dataset", "budget"}
    assert states(found)["certificate"] is CheckState.WARN
    assert states(found)["policy"] is CheckState.WARN
    assert "size is 48, 48, the study has 32, 32" in words(found, "dataset")
    assert "source differs" in words(found, "code")
    with pytest.raises(DataError, match="audit log, disk, code"):
        found.raise_if_failed()


def test_a_damaged_study_file_and_dataset_are_failures_not_crashes(consortium, tmp_path):
    site = consortium.sites["north"]
    (tmp_path / "study.json").write_bytes(b"\xff")
    found = site_doctor.examine(site.root, tmp_path / "study.json", tmp_path)
    assert {check.name for check in found.failed} == {"study", "dataset"}
    (site.private / "keys" / "node.key").write_bytes(b"")
    assert "keys" in {check.name for check in site_doctor.examine(site.root).failed}


def test_a_proxy_is_named_without_its_password(consortium, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example.org:3128")
    found = site_doctor.examine(consortium.sites["north"].root)
    assert states(found)["proxy"] is CheckState.WARN
    assert "HTTPS_PROXY" in words(found, "proxy")
    assert "secret" not in found.summary()
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert states(site_doctor.examine(consortium.sites["north"].root))["proxy"] is CheckState.OK


@pytest.mark.parametrize("status", [404, 200, 302])
@pytest.mark.parametrize("minutes", [0, 10, -10])
def test_the_clock_is_compared_with_the_coordinators(folder, status, minutes):
    root = folder.study().file.coordinator.authority
    with coordinator(folder, ahead=timedelta(minutes=minutes), status=status) as address:
        assert abs(site_doctor.clock_skew(address, root) + 60 * minutes) < 3


def test_the_clock_is_asked_through_the_line_that_the_site_will_use(folder, monkeypatch):
    root = folder.study().file.coordinator.authority
    with BadLine() as line, coordinator(folder) as address:
        monkeypatch.setenv("ALL_PROXY", line.environment["HTTPS_PROXY"])
        site_doctor.clock_skew(address, root)
        assert line.calls == [address]


def test_a_certificate_of_another_authority_fails_the_examination(consortium, monkeypatch):
    def other(address: str, root: bytes) -> float:
        raise NotAdmitted("the coordinator's certificate is not one of this study")

    monkeypatch.setattr(site_doctor, "clock_skew", other)
    found = site_doctor.examine(consortium.sites["north"].root, consortium.folder.study_path)
    assert states(found)["clock"] is CheckState.FAIL


def test_a_skewed_clock_fails_the_examination(consortium, monkeypatch):
    monkeypatch.setattr(site_doctor, "clock_skew", lambda address, root: -600.0)
    found = site_doctor.examine(consortium.sites["north"].root, consortium.folder.study_path)
    assert {check.name for check in found.failed} == {"clock"}
    assert "600 s behind the coordinator: set the clock" in words(found, "clock")
    monkeypatch.setattr(site_doctor, "clock_skew", lambda address, root: 40.0)
    found = site_doctor.examine(consortium.sites["north"].root, consortium.folder.study_path)
    assert states(found)["clock"] is CheckState.WARN


def test_a_server_of_another_authority_is_not_asked_for_the_time(folder, consortium):
    root = consortium.study.file.coordinator.authority
    with coordinator(folder) as address, pytest.raises(NotAdmitted, match="not one of this study"):
        site_doctor.clock_skew(address, root)


def test_a_plain_server_is_not_asked_for_the_time(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    try:
        with pytest.raises(Unreachable, match=r"(?i)ssl"):
            site_doctor.clock_skew(
                f"127.0.0.1:{server.server_address[1]}", folder.study().file.coordinator.authority
            )
    finally:
        thread.join()
        server.server_close()
