from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import pytest
from deid_samples import KEY

from meninx.core.errors import LayoutError, PrivacyRefusal, StorageError
from meninx.deid.identity import identity_registry
from meninx.deid.identity.identity_registry import IdentityRegistry, usual_place
from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.dicomfile.refusals import Reason

SITE = SiteKey(KEY, "north")
NAMES = Pseudonyms(SITE)
OWN = IssuerPolicy("north")


def opened(folder: Path, policy: IssuerPolicy = OWN, **how) -> IdentityRegistry:
    return IdentityRegistry(folder / "r", SITE, policy, **how)


def admit(registry: IdentityRegistry, patient_id: str, issuer: str = "", new: str = "") -> Reason | None:
    patient = Resolver(NAMES, registry.policy).patient(patient_id, issuer)
    return registry.admit(patient_id, issuer, patient.domain, new or patient.pseudonym)


@pytest.mark.parametrize("order", [("X", "", "Y"), ("", "X", "Y"), ("X", "Y", "")])
def test_an_id_belongs_to_the_first_of_two_issuers_in_every_delivery(tmp_path, order):
    for _ in range(2):  # a second delivery, in a new process
        for issuer in order:
            wanted = Reason.ISSUER_CONFLICT if issuer == "Y" else None
            assert admit(opened(tmp_path), "0000123", issuer) == wanted
    assert admit(opened(tmp_path), "77", "Y") is None
    report = opened(tmp_path).report()
    assert (report.patients, report.kept_out, report.shared_ids) == (2, 1, 0)


def test_listing_an_issuer_lets_its_patients_in_and_renames_nobody(tmp_path):
    admit(opened(tmp_path), "1", "X")
    assert admit(opened(tmp_path), "1", "Y") == Reason.ISSUER_CONFLICT
    same = opened(tmp_path, IssuerPolicy("north", domains={"x": "", "y": ""}))
    assert admit(same, "1", "Y") is None
    assert same.report().kept_out == 0
    other = opened(tmp_path, IssuerPolicy("north", domains={"x": "", "y": "", "z": "east"}))
    assert admit(other, "1", "Z") is None
    report = other.report()
    assert (report.patients, report.shared_ids) == (2, 1)
    found = [(one.issuer, one.domain, one.patients, one.kept_out) for one in report.issuers]
    assert found == [("x", "site", 1, 0), ("y", "site", 1, 0), ("z", "east", 1, 0)]
    assert "z       east            1          0" in report.summary()


def test_a_listed_issuer_and_an_unlisted_one_are_two(tmp_path):
    policy = IssuerPolicy("north", domains={"x": "", "x2": ""})
    assert admit(opened(tmp_path, policy), "1", "X") is None
    assert admit(opened(tmp_path, policy), "1", "X2") is None
    assert admit(opened(tmp_path, policy), "1", "Y") == Reason.ISSUER_CONFLICT


@pytest.mark.parametrize(
    "policy",
    [
        IssuerPolicy("north", "separate"),
        IssuerPolicy("north", domains={"x": "east"}),
        IssuerPolicy("north", "listed", domains={"x": "x"}),
    ],
)
def test_a_policy_that_would_rename_a_patient_is_refused(tmp_path, policy):
    running = opened(tmp_path, policy)
    admit(opened(tmp_path), "1", "X")
    with pytest.raises(PrivacyRefusal, match=r"pseudonyms stay.* 1 issuer other"):
        opened(tmp_path, policy)
    for _ in range(2):  # also in a process that was running before, and again when it tries again
        with pytest.raises(PrivacyRefusal, match="pseudonyms stay"):
            admit(running, "2")
    for fits in (OWN, IssuerPolicy("north", "separate", domains={"x": ""}), IssuerPolicy("north", "listed")):
        opened(tmp_path, fits)


def test_a_new_id_of_a_table_is_given_once_and_a_person_may_get_another(tmp_path):
    assert admit(opened(tmp_path), "1", new="S-1") is None
    assert admit(opened(tmp_path), "2", new="s-1") == Reason.LOOKUP_CONFLICT
    assert admit(opened(tmp_path), "1", new="S-2") is None
    assert admit(opened(tmp_path), "2", new="S-2") == Reason.LOOKUP_CONFLICT
    assert admit(opened(tmp_path), "2", new="S-3") is None


def test_a_fact_is_written_once_and_nothing_readable_is_in_the_file(tmp_path):
    for _ in range(3):
        registry = opened(tmp_path)
        for _ in range(2):
            admit(registry, "PAT-0000123", "Willowmere")
            admit(registry, "PAT-0000123", "Elsewhere")
            admit(registry, "", "Willowmere")
    content = (tmp_path / "r").read_bytes()
    assert content.count(b"\n") == 3  # heading, claim, conflict
    for text in (b"0000123", b"illowmere", b"lsewhere", b"north", KEY, KEY.hex().encode()):
        assert text.lower() not in content.lower()
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "r.lock").stat().st_mode & 0o777 == 0o600


def test_a_frozen_registry_judges_and_writes_nothing(tmp_path):
    dry = opened(tmp_path, frozen=True)
    assert [admit(dry, "1", issuer) for issuer in "XY"] == [None, Reason.ISSUER_CONFLICT]
    assert not list(tmp_path.iterdir())
    admit(opened(tmp_path), "1", "Y")
    before = (tmp_path / "r").read_bytes()
    assert admit(opened(tmp_path, frozen=True), "1", "X") == Reason.ISSUER_CONFLICT
    assert (tmp_path / "r").read_bytes() == before


def filled(folder: Path) -> list[bytes]:
    registry = opened(folder)
    for number in range(4):
        admit(registry, str(number), "X")
    return (folder / "r").read_bytes().splitlines(keepends=True)


def changes(lines: list[bytes]) -> dict[str, bytes]:
    """Every way in which somebody may edit the file, short of cutting lines from its end."""
    swapped = [lines[0], lines[2], lines[1], *lines[3:]]
    flipped = bytearray(b"".join(lines))
    flipped[len(lines[0]) + 20] ^= 1
    return {
        "removed": b"".join([*lines[:2], *lines[3:]]),
        "swapped": b"".join(swapped),
        "again": b"".join([*lines, lines[2]]),
        "flipped": bytes(flipped),
        "no seal": b"".join([*lines, lines[2].rpartition(b" ")[0] + b"\n"]),
        "text": b"".join([*lines, b"claim\n"]),
        "other bytes": b"".join([*lines, b"\xff\xfe \n"]),
        "long": b"".join([*lines, b"a" * 4000]),
        "first seal": lines[0][:-3] + b"0\n" + b"".join(lines[1:]),
    }


@pytest.mark.parametrize("change", changes([b"%d %s %s\n" % (n, b"b" * 40, b"c" * 9) for n in range(5)]))
def test_an_edited_registry_is_refused(tmp_path, change):
    running = None
    content = changes(filled(tmp_path))[change]
    running = opened(tmp_path) if change != "removed" else None
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(PrivacyRefusal, match="was changed since"):
        opened(tmp_path)
    if running is not None and change in ("again", "no seal", "text", "other bytes", "long"):
        with pytest.raises(PrivacyRefusal, match="was changed since"):
            admit(running, "9")


def test_a_registry_of_another_site_or_key_is_refused(tmp_path):
    filled(tmp_path)
    for key in (SiteKey(KEY, "south"), SiteKey(bytes(range(40)), "north")):
        with pytest.raises(PrivacyRefusal, match="another key or site"):
            IdentityRegistry(tmp_path / "r", key, IssuerPolicy(key.site))


@pytest.mark.parametrize(
    "content", [b"a thesis", b"a thesis\n", b"meninx-id", bytes(9), b"\x00" * 900 + b"\n", b"x" * 2000]
)
def test_another_file_is_no_registry_and_is_not_written_to(tmp_path, content):
    (tmp_path / "r").write_bytes(content)
    (tmp_path / "r").chmod(0o600)
    if content == b"meninx-id":  # the beginning of a registry, as a kill leaves it
        assert admit(opened(tmp_path), "1") is None
        return
    with pytest.raises(LayoutError, match="no identity registry"):
        opened(tmp_path)
    assert (tmp_path / "r").read_bytes() == content


def test_a_registry_of_a_later_version_is_not_read(tmp_path):
    lines = filled(tmp_path)
    (tmp_path / "r").write_bytes(b"".join(lines).replace(b"registry 2 ", b"registry 3 ", 1))
    with pytest.raises(LayoutError, match="format 2, got 3"):
        opened(tmp_path)


def test_a_registry_that_others_may_write_is_refused_with_the_command(tmp_path):
    filled(tmp_path)
    (tmp_path / "r").chmod(0o620)
    with pytest.raises(PrivacyRefusal, match=r"mode 0620.*chmod 600 r"):
        opened(tmp_path)


@pytest.mark.parametrize("cut", [1, 60, 160, 200, 250, 100_000])
def test_whatever_a_kill_leaves_of_the_last_line_works(tmp_path, cut):
    whole = b"".join(filled(tmp_path))
    torn = max(whole.rstrip(b"\n").rfind(b"\n") + 1 - cut, 0) if cut == 100_000 else len(whole) - cut
    (tmp_path / "r").write_bytes(whole[:torn])
    registry = opened(tmp_path)
    for number in range(4):
        assert admit(registry, str(number), "X") is None
    assert (tmp_path / "r").read_bytes() == whole
    assert opened(tmp_path).report().patients == 4


@pytest.mark.parametrize("tail", [b"conflict " + b"0" * 190, bytes(300), b"\xff"])
def test_a_torn_tail_that_is_longer_than_the_next_line_is_gone(tmp_path, tail):
    whole = b"".join(filled(tmp_path))
    (tmp_path / "r").write_bytes(whole + tail)
    assert admit(opened(tmp_path), "9", "X") is None
    assert (tmp_path / "r").read_bytes().splitlines(keepends=True)[:-1] == whole.splitlines(keepends=True)
    assert opened(tmp_path).report().patients == 5


def test_a_full_disk_is_told_and_the_registry_stays_usable(tmp_path, monkeypatch):
    filled(tmp_path)
    registry = opened(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="--registry FILE"):
        admit(registry, "9", "X")
    monkeypatch.undo()
    assert admit(registry, "9", "X") is None
    assert admit(opened(tmp_path), "9", "X") is None
    assert opened(tmp_path).report().patients == 5


def test_a_registry_never_travels(tmp_path):
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(opened(tmp_path))


def test_the_usual_place_is_beside_the_key_and_safe(tmp_path):
    assert usual_place(tmp_path / "k", "north").name == "k.north.registry"
    assert usual_place(tmp_path / "k", "../../x").parent == tmp_path
    assert usual_place(tmp_path / "k", "Klinik Nord/ü").name == "k.klinik-nord--.registry"


def work(folder: Path, issuer: str, results) -> None:
    registry = opened(folder)
    results.put([admit(registry, str(number), issuer) for number in range(40)])


def test_two_processes_at_once_admit_every_id_exactly_once(tmp_path):
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    workers = [fork.Process(target=work, args=(tmp_path, issuer, results)) for issuer in "XYX"]
    for worker in workers:
        worker.start()
    verdicts = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    for at_once in zip(*verdicts, strict=True):
        assert Reason.ISSUER_CONFLICT in at_once
        assert None in at_once
    report = opened(tmp_path).report()
    assert (report.patients, report.kept_out) == (40, 40)


def endless(folder: Path, start: int) -> None:
    registry = opened(folder)
    for number in range(start, 100_000):
        admit(registry, str(number), "X")


def test_kill_minus_nine_at_any_instant_leaves_a_registry_that_works(tmp_path):
    fork = multiprocessing.get_context("fork")
    seen = 0
    for attempt in range(5):
        worker = fork.Process(target=endless, args=(tmp_path, attempt * 10_000))
        worker.start()
        while not (tmp_path / "r").exists() or (tmp_path / "r").stat().st_size < 400 * (attempt + 1):
            worker.join(0.002)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        now = opened(tmp_path).report().patients
        assert now > seen or attempt
        seen = now
    assert admit(opened(tmp_path), "0", "X") is None
    assert admit(opened(tmp_path), "0", "Y") == Reason.ISSUER_CONFLICT
    assert b"\n\n" not in (tmp_path / "r").read_bytes()


def test_another_process_that_holds_the_lock_is_waited_for(tmp_path, monkeypatch):
    from filelock import FileLock

    from meninx.core.errors import RunLocked

    monkeypatch.setattr(identity_registry, "_PATIENCE", 0.05)
    with FileLock(tmp_path / "r.lock"), pytest.raises(RunLocked, match="another process"):
        admit(opened(tmp_path), "1")
    assert admit(opened(tmp_path), "1") is None


def test_contradictions_between_deliveries_are_noticed_and_cost_no_line_twice(tmp_path):
    said = [{"sex": [sex]} for sex in ("aa", "bb", "aa")]
    for number, one in enumerate(said):
        registry = opened(tmp_path)
        assert registry.admit("7", "", "", "P7", one) is None
        assert registry.admit("8", "", "", "P8", said[0]) is None
        assert registry.contradictions("7", "") == (("sex",) if number else ())
        assert registry.contradictions("8", "") == registry.contradictions("9", "") == ()
        assert registry.report().contradicting == bool(number)
    lines = (tmp_path / "r").read_bytes().splitlines()
    assert [line.split()[0] for line in lines[1:]] == [b"claim", b"traits", b"claim", b"traits", b"traits"]
    assert max(map(len, lines)) < 1024


def test_the_longest_traits_fit_into_a_line(tmp_path):
    scripts = ["latin", "cyrillic", "greek", "hebrew", "arabic", "devanagari"]
    said = {f"name {script}": ["0" * 16, "f" * 16] for script in scripts}
    said |= {kind: ["0" * 16] for kind in ("year", "day", "sex")}
    assert opened(tmp_path).admit("7", "", "", "P7", said) is None
    assert opened(tmp_path).report().patients == 1


def test_a_registry_of_format_1_stays_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(identity_registry, "FORMAT", "1")
        opened(tmp_path).admit("7", "", "", "P7", {"sex": ["aa"]})
    registry = opened(tmp_path)
    for sex in ("aa", "bb"):
        assert registry.admit("7", "", "", "P7", {"sex": [sex]}) is None
    assert registry.contradictions("7", "") == ("sex",)  # as long as this object lives
    assert b"traits" not in (tmp_path / "r").read_bytes()
    assert opened(tmp_path).report().contradicting == 0
