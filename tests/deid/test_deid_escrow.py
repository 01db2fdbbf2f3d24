"""The escrow: every identity comes back with its key, and nothing comes back without it."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import hmac
import io
import itertools
import json
import re
import stat
import tempfile
from pathlib import Path

import msgspec
import pydicom
import pytest
from deid_samples import KEY, PLANTED, ROOT, clean, image, images, item, key_file, save, tree
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence

from meninx.cli.app import run as command
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import ConfigError, DataError, MeninxError, PrivacyRefusal, UsageError
from meninx.deid import dates
from meninx.deid.escrow import access_log, broker_key, escrow_file, identities, sealed_stream, sealing
from meninx.deid.escrow.escrow_file import Opener, Recipient
from meninx.deid.escrow.reidentify import Request, run
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms

BY_KEY = Recipient()
ESCROW = "out/private/escrow.meninx"
CHUNK = sealed_stream.CHUNK


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def restored(tmp: Path, request: Request, name: str = "table.csv", **options) -> list[dict[str, str]]:
    options.setdefault("opener", Opener(key=tmp / "site.key"))
    run(tmp / ESCROW, options.pop("opener"), request, tmp / name, reason="a test", **options)
    return rows(tmp / name)


def archive(tmp: Path, patients: list[str], **config) -> None:
    for number, name in enumerate(patients, start=1):
        ds = image(
            number, study=number, PatientID=name, PatientName="", AccessionNumber=f"ACC-77{number:04d}"
        )
        save(ds, tmp / "in" / f"{number:05d}")
    clean(tmp, **{"escrow": "key", **config})


# --- the way back ---


def test_all_identities_of_an_archive_come_back(tmp_path):
    ds = image(
        ReferencedImageSequence=Sequence(
            [item(ReferencedSOPInstanceUID=f"{ROOT}.77", ContentDate="20010228")]
        )
    )
    save(ds, tmp_path / "in" / "a")
    save(image(2, study=2, PatientID="=1+1", IssuerOfPatientID="EAST"), tmp_path / "in" / "b")
    save(image(3, study=3, PatientID=None, PatientName="Nobody"), tmp_path / "in" / "c")
    clean(tmp_path, escrow="key", issuers="separate")
    found = restored(tmp_path, Request(everything=True))
    with (tmp_path / "out/private/crosswalk_uids.csv").open() as stream:
        expected = {(row["id_new"], row["id_old"]) for row in csv.DictReader(stream)}
    assert {(row["new"], row["original"]) for row in found if row["kind"] == "uid"} == expected
    people = [row for row in found if row["kind"] == "patient"]
    assert {(row["original"], row["issuer"], row["domain"]) for row in people} == {
        ("0000123", "", ""),
        ("'=1+1", "EAST", "east"),  # a spreadsheet must not calculate it
        ("", "", ""),  # the patient without an ID
    }
    assert {row["original"] for row in found if row["kind"] == "accession"} == {"ACC-778812"}
    assert stat.S_IMODE((tmp_path / "table.csv").stat().st_mode) == 0o600


def test_a_clean_file_gives_its_originals_with_their_places(tmp_path):
    inner = item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=f"{ROOT}.77")
    ds = image(ReferencedImageSequence=Sequence([inner]), AcquisitionDateTime="20190314101500.25+0100")
    save(ds, tmp_path / "in" / "a")
    clean(tmp_path, escrow="key")
    before = tree(tmp_path / "out" / "images")
    found = restored(tmp_path, Request(dicom=images(tmp_path / "out")[0]))
    place = {row["attribute"]: row["original"] for row in found}
    wanted = {
        "00080018": ds.SOPInstanceUID, "0020000D": ds.StudyInstanceUID, "0020000E": ds.SeriesInstanceUID,
        "00200052": ds.FrameOfReferenceUID, "00081140[0].00081155": f"{ROOT}.77", "00080050": "ACC-778812",
        "00100020": "0000123", "00080020": "20190314", "00080021": "20190314", "00080022": "20190314",
        "00080023": "20190314", "0008002A": "20190314101500.25+0100",
    }  # fmt: skip
    assert {name: place.get(name) for name in wanted} == wanted
    assert tree(tmp_path / "out" / "images") == before


def test_a_value_of_a_wrong_length_does_not_lose_the_others(tmp_path):
    save(image(), tmp_path / "in" / "a")
    clean(tmp_path, escrow="key")
    path = images(tmp_path / "out")[0]
    ds = pydicom.dcmread(path)
    ds.add_new(0x00280106, "OB", b"abc")
    ds.save_as(tmp_path / "copy.dcm")
    content = (tmp_path / "copy.dcm").read_bytes()
    wrong = content.replace(b"\x28\x00\x06\x01OB\0\0\x04\0\0\0abc\0", b"\x28\x00\x06\x01US\x03\0abc")
    assert wrong != content
    (tmp_path / "copy.dcm").write_bytes(wrong)
    found = restored(tmp_path, Request(dicom=tmp_path / "copy.dcm"))
    assert {"0000123", image().SOPInstanceUID, "20190314"} <= {row["original"] for row in found}


LETTERS = st.text(st.sampled_from("ABCxyz0189-_ ./=+@äЖ'\""), min_size=1, max_size=20)


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    st.lists(
        st.tuples(LETTERS, LETTERS, st.dates(dates.date(1901, 1, 1), dates.date(2025, 1, 1))),
        min_size=1, max_size=4,
    ),
    st.binary(min_size=32, max_size=40).filter(lambda key: len(set(key)) > 20),
)  # fmt: skip
def test_every_id_uid_and_date_of_generated_archives_comes_back(people, secret):
    with tempfile.TemporaryDirectory() as folder:
        tmp, originals = Path(folder), {}
        for number, (patient, accession, day) in enumerate(people, start=1):
            stamp = day.strftime("%Y%m%d")
            ds = image(number, study=number, PatientID=patient, AccessionNumber=accession[:8], PatientName="")
            ds.SpecificCharacterSet = "ISO_IR 192"
            ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = stamp
            ds.PatientBirthDate = ""
            path = save(ds, tmp / "in" / f"{number:03d}")
            ds = pydicom.dcmread(path)
            originals[ds.SOPInstanceUID] = ds
        clean(tmp, key=key_file(tmp, secret), escrow="key")
        public = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, images(tmp / "out"))}
        found = restored(tmp, Request(dicom=tmp / "out" / "images"))
        back: dict[str, dict[str, set[str]]] = {}
        for row in found:
            back.setdefault(row["file"], {}).setdefault(row["attribute"], set()).add(row["original"])
        assert len(back) == len(public) == len(originals)
        for places in back.values():
            (uid,) = places["00080018"]
            ds = originals[uid]
            ids = {unquoted(value).strip() for value in places["00100020"]}
            assert str(ds.PatientID).strip() in ids or not str(ds.PatientID).strip()
            assert places["0020000D"] == {ds.StudyInstanceUID}
            assert places["0020000E"] == {ds.SeriesInstanceUID}
            for tag in ("00080020", "00080021", "00080022", "00080023"):
                assert places[tag] == {ds.StudyDate}
            if str(ds.AccessionNumber).strip():
                assert str(ds.AccessionNumber).strip() in {unquoted(v).strip() for v in places["00080050"]}


def unquoted(cell: str) -> str:
    return cell.removeprefix("'")


def test_the_escrow_is_written_again_only_when_its_content_changes(tmp_path):
    archive(tmp_path, ["0000123"])
    first, public = (tmp_path / ESCROW).read_bytes(), tree(tmp_path / "out" / "images")
    clean(tmp_path, escrow="key")
    assert (tmp_path / ESCROW).read_bytes() == first
    save(image(9, study=9, PatientID="0000999"), tmp_path / "in" / "z")
    clean(tmp_path, escrow="key")
    assert (tmp_path / ESCROW).read_bytes() != first
    assert public.items() <= tree(tmp_path / "out" / "images").items()
    clean(tmp_path, out="plain")
    assert tree(tmp_path / "plain" / "images") == tree(tmp_path / "out" / "images")
    damaged = bytearray((tmp_path / ESCROW).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / ESCROW).write_bytes(damaged)
    clean(tmp_path, escrow="key")  # a damaged one is written anew
    assert restored(tmp_path, Request(everything=True))


def test_dates_of_an_archive_without_shifted_dates_are_not_invented(tmp_path):
    archive(tmp_path, ["0000123"], profile="basic")
    found = restored(tmp_path, Request(everything=True))
    assert {row["shift_days"] for row in found} == {""}


# --- who cannot open it ---


def sealed(secret: bytes = KEY, site: str = "north", text: bytes = b"line\n" * 3, **recipient) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e"
        escrow_file.write(path, Recipient(**recipient), SiteKey(secret, site), bytes(32), [text])
        return path.read_bytes()


def opened(tmp: Path, content: bytes, **opener) -> bytes:
    (tmp / "e").write_bytes(content)
    return b"".join(escrow_file.read(tmp / "e", Opener(**(opener or {"key": key_file(tmp)}))))


SEALED = sealed()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SEALED) - 1), st.integers(0, 7))
def test_one_changed_bit_anywhere_is_refused(place, bit):
    changed = bytearray(SEALED)
    changed[place] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder, pytest.raises(MeninxError):
        opened(Path(folder), bytes(changed))


def test_every_changed_byte_is_refused(tmp_path):
    key_file(tmp_path)
    for place, mask in itertools.product(range(len(SEALED)), (1, 0x20)):
        changed = bytearray(SEALED)
        changed[place] ^= mask
        with pytest.raises(MeninxError):
            opened(tmp_path, bytes(changed), key=tmp_path / "site.key")


@settings(max_examples=20, deadline=None)
@given(st.sampled_from((0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7)), st.integers(1, 9))
def test_texts_of_every_length_come_back(size, pieces):
    text = bytes(number % 251 for number in range(size))
    cut = [text[start::pieces] for start in range(pieces)]
    stream = io.BytesIO()
    sealed_stream.write(stream, bytes(32), bytes(7), b"h", cut)
    stream.seek(0)
    assert b"".join(sealed_stream.read(stream, bytes(32), bytes(7), b"h", where="e")) == b"".join(cut)


def test_cut_repeated_and_exchanged_chunks_are_refused(tmp_path):
    text = bytes(3 * CHUNK + 5)
    content = sealed(text=text)
    assert opened(tmp_path, content) == text
    sizes = CHUNK + sealed_stream.TAG
    head = len(content) - 3 * sizes - (5 + sealed_stream.TAG)
    start, parts = content[:head], [content[head + n * sizes : head + (n + 1) * sizes] for n in range(4)]
    other = sealed(text=text)
    foreign = other[len(other) - (5 + sealed_stream.TAG) :]
    for order in (parts[:3], parts[:1], [], [parts[1], parts[0], *parts[2:]], [*parts[:3], *parts[2:]],
                  [parts[0], *parts[2:]], [*parts, parts[3]], [*parts[:3], foreign], [parts[3]]):  # fmt: skip
        with pytest.raises(PrivacyRefusal, match="changed or is not complete"):
            opened(tmp_path, start + b"".join(order))
    with pytest.raises(PrivacyRefusal):
        opened(tmp_path, content[:-1])


def test_another_key_and_another_site_are_refused_by_name(tmp_path):
    with pytest.raises(PrivacyRefusal, match="of the site 'north' under another key"):
        opened(tmp_path, SEALED, key=key_file(tmp_path, bytes(range(50, 90)), "other.key"))
    archive(tmp_path, ["0000123"])
    with pytest.raises(PrivacyRefusal, match="an escrow of the site 'south', got one of the site 'north'"):
        restored(tmp_path, Request(everything=True), site="south")
    header = escrow_file.read_header(tmp_path / ESCROW)
    content = (tmp_path / ESCROW).read_bytes()
    (tmp_path / ESCROW).write_bytes(content.replace(b'"site":"north"', b'"site":"south"'))
    with pytest.raises(PrivacyRefusal, match="site 'south' under another key"):
        restored(tmp_path, Request(everything=True))
    assert header.site == "north"


def test_only_the_broker_opens_what_is_sealed_for_it(tmp_path):
    pair = broker_key.make_pair(tmp_path / "broker.key")
    other = broker_key.make_pair(tmp_path / "other.key")
    archive(tmp_path, ["0000123"], escrow=str(pair.public))
    everything = Request(everything=True)
    with pytest.raises(PrivacyRefusal, match=f"got one for the broker {pair.fingerprint[:16]}"):
        restored(tmp_path, everything)
    with pytest.raises(PrivacyRefusal, match=f"an escrow for the broker {other.fingerprint[:16]}"):
        restored(tmp_path, everything, opener=Opener(broker=other.out))
    found = restored(tmp_path, everything, opener=Opener(broker=pair.out))
    assert "0000123" in {row["original"] for row in found}
    assert (tmp_path / "broker.key.reidentify-log").is_file()
    first = (tmp_path / ESCROW).read_bytes()
    clean(tmp_path, escrow=str(pair.public))
    assert (tmp_path / ESCROW).read_bytes() == first
    clean(tmp_path, escrow=str(other.public))
    assert restored(tmp_path, everything, "b.csv", opener=Opener(broker=other.out))


def test_keys_of_brokers_are_checked(tmp_path):
    pair = broker_key.make_pair(tmp_path / "broker.key")
    with pytest.raises(PrivacyRefusal, match="existing"):
        broker_key.make_pair(tmp_path / "broker.key")
    with pytest.raises(PrivacyRefusal, match="private key"):
        broker_key.read_public(pair.out)
    (tmp_path / "broker.key").chmod(0o644)
    with pytest.raises(PrivacyRefusal, match="mode 0644"):
        broker_key.read_private(pair.out)
    (tmp_path / "a").write_bytes(b"nothing")
    with pytest.raises(DataError):
        broker_key.read_public(tmp_path / "a")
    with pytest.raises(PrivacyRefusal, match="not secret"):  # a point of small order
        Recipient(bytes(32)).header(SiteKey(KEY, "north"), bytes(32))


# --- the log, and what is refused ---


def test_every_access_is_recorded_without_a_pseudonym(tmp_path):
    archive(tmp_path, ["0000123", "0000124"])
    pseudonym = Pseudonyms(SiteKey(KEY, "north")).patient("0000123").pseudonym
    assert {row["pseudonym"] for row in restored(tmp_path, Request(pseudonyms=(pseudonym, "P0")))} == {
        pseudonym
    }
    restored(tmp_path, Request(everything=True), "b.csv")
    report = access_log.report(tmp_path / ESCROW, Opener(key=tmp_path / "site.key"))
    assert [(line.asked, line.found, line.reason) for line in report.lines] == [
        (2, 1, "a test"),
        (0, 2, "a test"),
    ]
    content = report.out.read_text()
    assert pseudonym not in content
    assert "0000123" not in content
    assert stat.S_IMODE(report.out.stat().st_mode) == 0o600
    key = Opener(key=tmp_path / "site.key").log_key(escrow_file.read_header(tmp_path / ESCROW))
    assert (
        access_log.AccessLog(report.out, key, tmp_path / ESCROW).digest(pseudonym) in report.lines[0].digests
    )


@pytest.mark.parametrize("change", ["edit", "remove", "swap", "forge"])
def test_a_changed_log_stops_every_look_up(tmp_path, change):
    archive(tmp_path, ["0000123"])
    for name in ("a.csv", "b.csv", "c.csv"):
        restored(tmp_path, Request(everything=True), name)
    opener = Opener(key=tmp_path / "site.key")
    path = access_log.report(tmp_path / ESCROW, opener).out
    lines = path.read_bytes().splitlines(keepends=True)
    forged = msgspec.json.decode(lines[2]) | {"number": 4, "before": msgspec.json.decode(lines[2])["seal"]}
    changed = {
        "edit": [lines[0].replace(b"a test", b"a rest"), *lines[1:]],
        "remove": lines[1:],
        "swap": [lines[1], lines[0], lines[2]],
        "forge": [*lines, msgspec.json.encode(forged) + b"\n"],
    }[change]
    path.write_bytes(b"".join(changed))
    with pytest.raises(PrivacyRefusal, match="access log was changed"):
        restored(tmp_path, Request(everything=True), "d.csv")
    assert not (tmp_path / "d.csv").exists()


def record_of(path: Path) -> Path:
    """Return the record beside a log or an escrow."""
    (found,) = path.parent.glob(f"{path.name}{access_log.RECORD}*")
    return found


@pytest.mark.parametrize("loss", ["deleted", "cut", "replaced"])
@pytest.mark.parametrize("other", ["log", "escrow"])
def test_a_log_that_was_deleted_or_cut_stops_every_look_up(tmp_path, capsys, loss, other):
    archive(tmp_path, ["0000123"])
    for name in ("a.csv", "b.csv"):
        restored(tmp_path, Request(everything=True), name)
    opener = Opener(key=tmp_path / "site.key")
    report = access_log.report(tmp_path / ESCROW, opener)
    assert report.missing_records == ()
    log = report.out
    records = {"log": record_of(log), "escrow": record_of(tmp_path / ESCROW)}
    assert {stat.S_IMODE(record.stat().st_mode) for record in records.values()} == {0o600}
    records[other].unlink()  # one of the two is enough
    first = log.read_bytes().splitlines(keepends=True)[0]
    log.unlink()
    if loss == "cut":
        log.write_bytes(first)
    if loss == "replaced":  # by a new log of the same length, which somebody without the records would get
        kept = {path: path.read_bytes() for path in records.values() if path.exists()}
        for path in kept:
            path.unlink()
        for name in ("c.csv", "d.csv"):
            run(tmp_path / ESCROW, opener, Request(everything=True), tmp_path / name, reason="harmless")
        for path in records.values():
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
    with pytest.raises(PrivacyRefusal, match="had 2 lines or more and was deleted, cut or replaced"):
        restored(tmp_path, Request(everything=True), "e.csv")
    assert not (tmp_path / "e.csv").exists()
    arguments = ["escrow", "log", str(tmp_path / ESCROW), "--key", str(tmp_path / "site.key")]
    assert command(arguments) == 4
    assert "put the log back" in capsys.readouterr().err


def test_records_of_the_log_are_sealed_and_stay_when_plain_tables_go(tmp_path):
    archive(tmp_path, ["0000123"])
    restored(tmp_path, Request(everything=True), "a.csv")
    record = record_of(tmp_path / ESCROW)
    sealing.seal(tmp_path / "out", tmp_path / "site.key", Recipient(), remove_plain=True)
    content = record.read_bytes()
    assert b"0000123" not in content
    for wrong in (content.replace(b'"number":1', b'"number":2'), b"nothing", b"[" * 4000):
        record.write_bytes(wrong)
        with pytest.raises(PrivacyRefusal, match="record of the access log was changed"):
            restored(tmp_path, Request(everything=True), "b.csv")
    record.unlink()  # a copied escrow has none yet
    report = access_log.report(tmp_path / ESCROW, Opener(key=tmp_path / "site.key"))
    assert report.missing_records == (record.name,)
    assert f"not there: {record.name}" in report.summary()
    restored(tmp_path, Request(everything=True), "b.csv")
    assert record.is_file()


def test_what_is_refused(tmp_path):
    archive(tmp_path, ["0000123"])
    opener, everything = Opener(key=tmp_path / "site.key"), Request(everything=True)
    with pytest.raises(UsageError, match="reason"):
        run(tmp_path / ESCROW, opener, everything, tmp_path / "t.csv", reason=" ")
    for place in ("out/t.csv", "out/images/t.csv", "out/private/t.csv"):
        with pytest.raises(UsageError, match="out"):
            run(tmp_path / ESCROW, opener, everything, tmp_path / place, reason="a")
    with pytest.raises(DataError, match="none of the patients"):
        restored(tmp_path, Request(pseudonyms=("P0",)))
    assert not (tmp_path / "table.csv").exists()
    with pytest.raises(UsageError, match="one request"):
        Request()
    with pytest.raises(UsageError, match="one key"):
        Opener()
    for settings_ in ({"escrow_only": True}, {"escrow": "key", "escrow_only": True, "lookup_out": True}):
        with pytest.raises(ConfigError):
            clean(tmp_path, out="x", **settings_)


def test_a_dry_run_counts_and_records_nothing(tmp_path):
    archive(tmp_path, ["0000123"])
    before = tree(tmp_path)
    result = run(
        tmp_path / ESCROW,
        Opener(key=tmp_path / "site.key"),
        Request(everything=True),
        tmp_path / "t.csv",
        dry_run=True,
    )
    assert result.patients == 1
    assert tree(tmp_path) == before


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_a_hostile_text_in_an_escrow_is_a_data_error(text):
    with contextlib.suppress(DataError):
        list(identities.parsed([b'{"dates":"shifted","format":1,"site":"n"}\n', text], where="e"))


def test_the_command_line_restores_and_shows_the_log(tmp_path, capsys, monkeypatch):
    archive(tmp_path, ["0000123"])
    monkeypatch.chdir(tmp_path)
    arguments = ["reidentify", ESCROW, "--key", "site.key", "--out", "t.csv"]
    (tmp_path / "ids.csv").write_text("pseudonym,why\n" + rows_of_crosswalk(tmp_path) + ",x\nP0,y\n")
    assert command([*arguments, "--ids", "ids.csv", "--reason", "a finding", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["asked"], shown["patients"], shown["unknown"]) == (2, 1, 1)
    assert command([*arguments, "--all", "--reason", "again"]) == 2  # the table exists
    assert command([*arguments, "P0", "--overwrite", "--reason", "again"]) == 3
    assert command(["escrow", "log", ESCROW, "--key", "site.key"]) == 0
    assert "1 of 2 patients (pseudonyms)" in capsys.readouterr().out


def rows_of_crosswalk(tmp: Path) -> str:
    return rows(tmp / "out/private/crosswalk_patients.csv")[0]["id_new"]


# --- destroying the key ---


def bytes_of(folder: Path) -> bytes:
    return b"\0".join(
        path.read_bytes() + path.name.encode() for path in sorted(folder.rglob("*")) if path.is_file()
    )


def attacked(content: bytes, secrets: list[bytes], ids: list[str]) -> int:
    """Return how many IDs an attacker confirms who tries secrets and plain digests on all bytes."""
    hits = set()
    words = set(re.findall(rb"[0-9A-Za-z.]{16,}", content))
    for name in ids:
        plain = name.encode()
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            if digest(plain).hexdigest().encode() in content:
                hits.add(name)
    for secret in secrets:
        try:
            pseudonyms = Pseudonyms(SiteKey(secret, "north"))
        except PrivacyRefusal:
            continue
        hits |= {name for name in ids if pseudonyms.patient(name).pseudonym.encode() in words}
        hits |= {name for name in ids if hmac.digest(secret, name.encode(), "sha256").hex().encode() in words}
    return len(hits)


@pytest.mark.parametrize("way", ["setting", "command"])
def test_destroying_the_key_makes_the_archive_anonymous(tmp_path, way):
    everyone = [f"{number:04d}" for number in range(10_000)]
    patients = ["0042", "1234", "9876", "5007", "3141"]
    archive(tmp_path, patients, **({"escrow_only": True} if way == "setting" else {}))
    out, key = tmp_path / "out", (tmp_path / "site.key").read_bytes()
    if way == "command":
        assert f"{ROOT}.1.1".encode() in bytes_of(out)  # the search sees what is plain
        result = sealing.seal(out, tmp_path / "site.key", BY_KEY, remove_plain=True)
        assert "journal.jsonl" in result.removed
        assert not result.written  # the run had sealed the same
    # While the key exists, the attack and the escrow give every patient.
    assert attacked(bytes_of(out), [key], everyone) == len(patients)
    back = restored(tmp_path, Request(everything=True))
    assert {row["original"] for row in back if row["kind"] == "patient"} == set(patients)
    for name in ("table.csv", "site.key"):
        (tmp_path / name).unlink()
    content = bytes_of(out)
    originals = [f"{ROOT}.{kind}.{n}".encode() for n in range(1, 6) for kind in (1, 3)]
    originals += [f"ACC-77{n:04d}".encode() for n in range(1, 6)] + [
        word.encode() for word in PLANTED if word != "0000123"
    ]
    assert [word for word in originals if word in content] == []
    assert not re.search(rb'"(0042|1234|9876|5007|3141)"', content)
    header = escrow_file.read_header(out / "private" / "escrow.meninx")
    left = [bytes.fromhex(text) for text in (header.salt, header.content, header.key * 2)]
    left += sorted(set(re.findall(rb"[0-9a-f]{32,64}", content)))[:6]
    assert attacked(content, left, everyone) == 0
    with pytest.raises(PrivacyRefusal, match="key"):
        restored(tmp_path, Request(everything=True))


def test_a_sealed_folder_can_be_continued_with_the_key(tmp_path):
    archive(tmp_path, ["0000123"], escrow_only=True)
    before = tree(tmp_path / "out" / "images")
    left = {path.name for path in (tmp_path / "out" / "private").iterdir()}
    assert left == {"escrow.meninx", "escrow.meninx.sha256", "workspace.json", "lock"}
    assert sealing.seal(tmp_path / "out", tmp_path / "site.key", BY_KEY, remove_plain=True).removed == ()
    save(image(9, study=9, PatientID="0000999"), tmp_path / "in" / "z")
    clean(tmp_path, escrow="key", escrow_only=True)
    assert before.items() <= tree(tmp_path / "out" / "images").items()
    assert {row["original"] for row in restored(tmp_path, Request(everything=True))} >= {"0000123", "0000999"}


def test_nothing_is_removed_if_the_escrow_is_damaged_or_the_key_another_one(tmp_path):
    archive(tmp_path, ["0000123"])
    (tmp_path / "out/private/journal.jsonl").rename(tmp_path / "journal.jsonl")
    content = (tmp_path / ESCROW).read_bytes()
    (tmp_path / ESCROW).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError):
        sealing.seal(tmp_path / "out", tmp_path / "site.key", BY_KEY, remove_plain=True)
    (tmp_path / "journal.jsonl").rename(tmp_path / "out/private/journal.jsonl")
    with pytest.raises(PrivacyRefusal, match="did not make the archive"):
        sealing.seal(
            tmp_path / "out", key_file(tmp_path, bytes(range(60, 99)), "o.key"), BY_KEY, remove_plain=True
        )
    assert (tmp_path / "out/private/crosswalk_uids.csv").is_file()


def test_the_dates_of_a_record_are_told_apart():
    def of(*options):
        return identities.dates_of(
            msgspec.convert(
                {"options": options}, type("R", (msgspec.Struct,), {"__annotations__": {"options": tuple}})
            )
        )

    assert of() == "removed"
    assert of("retain-modified-dates") == "shifted"
    assert of("retain-full-dates") == "kept"
    assert DeidRecord is not None
