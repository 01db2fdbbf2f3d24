"""A hospital delivers again and again: the same person keeps the pseudonym, and two people stay two."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from deid_samples import KEY, clean, image, images, item, key_file, save, tree
from pydicom.sequence import Sequence

from meninx.core.errors import PrivacyRefusal, UsageError
from meninx.deid import Deidentifier, KeyFile, Quarantined

REGISTRY = "site.key.north.registry"


def deliver(tmp: Path, name: str, *files: tuple[str, str], **config) -> dict[tuple[str, str], set[str]]:
    """De-identify one delivery; return (PatientID, issuer) -> new PatientIDs of what was written."""
    for number, (patient_id, issuer) in enumerate(files):
        changes = {"IssuerOfPatientID": issuer} if issuer else {}
        study = sum(map(ord, patient_id + issuer + name))
        save(image(number, study=study, PatientID=patient_id, **changes), tmp / name / f"{number:03d}")
    clean(tmp, f"{name}-clean", name, **config)
    found: dict[tuple[str, str], set[str]] = {}
    for line in (tmp / f"{name}-clean" / "private" / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["status"] == "written":
            new = pydicom.dcmread(tmp / f"{name}-clean" / entry["output"]).PatientID
            assert new == entry["patient"][1]
            found.setdefault((entry["patient"][0], entry["issuer"]), set()).add(new)
    return found


def rows(out: Path, name: str) -> list[dict[str, str]]:
    with (out / "private" / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def reasons(out: Path) -> list[str]:
    return [row["reason"] for row in rows(out, "quarantine.csv")]


@pytest.mark.parametrize("together", [True, False])
def test_a_person_keeps_the_pseudonym_whatever_else_is_delivered(tmp_path, together):
    """D7: X and Y both have a patient 7. Before, {X, Y} gave other pseudonyms than {X} and {Y}."""
    alone = deliver(tmp_path, "alone", ("7", "X"), ("8", "X"), ("9", ""))
    if together:
        later = deliver(tmp_path, "later", ("7", "Y"), ("7", "X"), ("8", ""), ("9", "X"))
    else:
        deliver(tmp_path, "later", ("7", "Y"))
        assert not images(tmp_path / "later-clean")
        later = deliver(tmp_path, "last", ("7", "X"), ("8", ""), ("9", "X"))
    assert reasons(tmp_path / "later-clean") == ["issuer-conflict"]
    assert later[("7", "X")] == alone[("7", "X")]
    assert later[("8", "")] == alone[("8", "X")]  # a report that leaves the issuer out
    assert later[("9", "X")] == alone[("9", "")]  # an issuer that appears later
    assert len({min(new) for new in alone.values()}) == 3


def test_the_issuers_that_were_kept_out_are_named_and_can_be_listed(tmp_path):
    first = deliver(tmp_path, "in", ("7", "PACS"), ("7", "East Lab"), ("8", ""))
    out = tmp_path / "in-clean"
    named = {"issuer": "East Lab", "domain": "", "result": "issuer-conflict"}
    assert named in rows(out, "issuers.csv")
    assert {"issuer": "PACS", "domain": "site", "result": "written"} in rows(out, "issuers.csv")
    assert "East Lab" not in "".join(str(data) for path, data in tree(out).items() if "private" not in path)
    (tmp_path / "domains.toml").write_text('"East Lab" = ["EAST LAB", "ELAB"]\n')
    # The same folder goes on: what was written stays, what was kept out is added.
    again = deliver(
        tmp_path, "in", ("7", "PACS"), ("7", "East Lab"), ("8", ""), issuer_domains=tmp_path / "domains.toml"
    )
    assert again.keys() - first.keys() == {("7", "East Lab")}
    assert all(again[who] == new for who, new in first.items())
    assert again[("7", "East Lab")] != again[("7", "PACS")]
    assert reasons(out) == []


def test_a_policy_that_would_rename_people_is_refused_before_anything_is_read(tmp_path):
    deliver(tmp_path, "in", ("7", "X"))
    before = tree(tmp_path)
    for change in ({"issuers": "separate"}, {"issuers": "separate", "registry": tmp_path / "other"}):
        with pytest.raises(PrivacyRefusal, match="pseudonyms stay"):
            clean(tmp_path, "in-clean", "in", **change)
        assert tree(tmp_path) == before
    clean(tmp_path, "fresh", "in", issuers="separate", registry=tmp_path / "other")
    assert clean(tmp_path, "in-clean", "in").files_resumed == 1
    asked = clean(tmp_path, "in-clean", "in", issuers="separate", registry=tmp_path / "other", overwrite=True)
    assert asked.files_written == 1


def test_a_lost_registry_is_made_again_from_the_outputs_and_no_conflict_is_missed(tmp_path):
    deliver(tmp_path, "first", ("7", "X"))
    (tmp_path / REGISTRY).unlink()
    assert clean(tmp_path, "first-clean", "first").files_resumed == 1
    deliver(tmp_path, "second", ("7", "Y"))
    assert reasons(tmp_path / "second-clean") == ["issuer-conflict"]


def test_outputs_that_contradict_each_other_are_found_when_they_are_continued(tmp_path):
    deliver(tmp_path, "first", ("7", "X"), ("8", "X"))
    (tmp_path / REGISTRY).unlink()
    deliver(tmp_path, "second", ("7", "Y"))
    result = clean(tmp_path, "first-clean", "first")
    assert (result.files_written, result.files_resumed, result.quarantined) == (1, 1, {"issuer-conflict": 1})
    assert len(images(tmp_path / "first-clean")) == 1


def test_a_result_of_the_old_rule_is_not_continued(tmp_path):
    deliver(tmp_path, "in", ("7", "X"))
    marker = tmp_path / "in-clean" / "private" / "workspace.json"
    table = json.loads(marker.read_text())
    marker.write_text(json.dumps(table | {"published": "ab" * 32}))
    with pytest.raises(UsageError, match=r"earlier format.*--overwrite"):
        clean(tmp_path, "in-clean", "in")
    assert clean(tmp_path, "in-clean", "in", overwrite=True).files_written == 1


@pytest.mark.parametrize("form", ["copied from another site", "edited", "open to others"])
def test_a_registry_that_is_not_the_sites_own_stops_folder_and_stream(tmp_path, form):
    deliver(tmp_path, "in", ("7", "X"), ("8", "X"))
    place = tmp_path / REGISTRY
    if form == "edited":
        place.write_bytes(place.read_bytes().replace(b"claim", b"conflict", 1))
    elif form == "open to others":
        place.chmod(0o644)
    else:
        clean(tmp_path, "south", "in", site="south")
        shutil.copy(tmp_path / "site.key.south.registry", place)
    before = tree(tmp_path)
    with pytest.raises(PrivacyRefusal, match="registry"):
        clean(tmp_path, "again", "in")
    with pytest.raises(PrivacyRefusal, match="registry"):
        Deidentifier(key=KeyFile(tmp_path / "site.key"), site="north")
    assert tree(tmp_path) == before


def test_a_registry_or_key_in_the_output_is_refused(tmp_path):
    save(image(), tmp_path / "in" / "a")
    with pytest.raises(PrivacyRefusal, match="registry inside"):
        clean(tmp_path, registry=tmp_path / "out" / "private" / "r")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_no_registry_and_counts_what_a_run_would_keep_out(tmp_path):
    for number, issuer in enumerate("XY"):
        save(image(number, IssuerOfPatientID=issuer), tmp_path / "in" / issuer)
    dry = clean(tmp_path, dry_run=True)
    assert dry.quarantined == {"issuer-conflict": 1}
    assert not (tmp_path / REGISTRY).exists()
    assert clean(tmp_path).quarantined == dry.quarantined


def test_issuers_that_only_their_universal_identifier_names_are_told_apart(tmp_path):
    for number, root in enumerate(("1.2.3", "1.2.4", "1.2.3")):
        qualifiers = Sequence([item(UniversalEntityID=root, UniversalEntityIDType="ISO")])
        ds = image(number, IssuerOfPatientIDQualifiersSequence=qualifiers)
        save(ds, tmp_path / "in" / str(number))
    assert clean(tmp_path).quarantined == {"issuer-conflict": 1}
    assert clean(tmp_path, "apart", issuers="separate", registry=tmp_path / "r").patients == 2


def test_the_other_values_of_a_patient_id_count(tmp_path):
    for number, patient_id in enumerate(("7\\A", "7\\B", "7")):
        save(image(number, study=number, PatientID=patient_id.split("\\")), tmp_path / "in" / str(number))
    assert clean(tmp_path).patients == 3


def test_what_needs_a_decision_is_said(tmp_path, invoke):
    key_file(tmp_path)
    for number, issuer in enumerate(("X", "Y", "")):
        changes = {"IssuerOfPatientID": issuer} if issuer else {}
        save(image(number, study=number, **changes), tmp_path / "in" / str(number))
    words = ("deid", tmp_path / "in", tmp_path / "out", "--key", tmp_path / "site.key", "--site", "north")
    code, _, err = invoke(*words)
    assert code == 0
    assert f"registry was made: {tmp_path / REGISTRY}" in err.replace("\n", "")
    assert "1 file was kept out because its PatientID is also that of another issuer" in err
    assert "registry was made" not in invoke(*words)[2]
    apart = ("--issuers", "separate", "--registry", tmp_path / "r")
    assert (
        "1 PatientID occurs with and without an issuer"
        in invoke(*words[:2], tmp_path / "new", *words[3:], *apart)[2]
    )
    record = json.loads((tmp_path / "new" / "deid.json").read_text())
    assert (record["issuers"], record["missing_issuer"]) == ("separate", "site")


def test_all_names_of_a_key_lead_to_one_registry(tmp_path):
    deliver(tmp_path, "first", ("7", "X"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.key").symlink_to(tmp_path / "site.key")
    deliver(tmp_path, "second", ("7", "Y"), key=tmp_path / "elsewhere" / "link.key")
    assert reasons(tmp_path / "second-clean") == ["issuer-conflict"]


def test_strict_sites_refuse_what_their_policy_does_not_name(tmp_path):
    (tmp_path / "domains.toml").write_text('site = ["PACS"]\n')
    files = (("7", "PACS"), ("7", ""), ("7", "Y"))
    strict = {"issuers": "listed", "issuer_domains": tmp_path / "domains.toml"}
    found = deliver(tmp_path, "in", *files, missing_issuer="quarantine", **strict)
    assert found.keys() == {("7", "PACS")}
    assert sorted(reasons(tmp_path / "in-clean")) == ["issuer-missing", "issuer-not-listed"]
    assert {row["issuer"] for row in rows(tmp_path / "in-clean", "issuers.csv")} == {"PACS", "Y"}
    relaxed = deliver(tmp_path, "in", *files, **strict)  # the same folder goes on
    assert relaxed[("7", "")] == relaxed[("7", "PACS")] == found[("7", "PACS")]


@pytest.mark.parametrize("column", [False, True])
def test_a_lookup_table_never_merges_two_people(tmp_path, column):
    """D8: the table gave one new ID and two date shifts to two people."""
    table = tmp_path / "table.csv"
    heading, lines = "old_patient_id;new_patient_id", ["7;STUDY-001"]
    if column:
        heading, lines = heading + ";issuer", ["7;STUDY-001;X", "7;STUDY-002;Y"]
    table.write_text("\n".join([heading, *lines]) + "\n")
    apart = {"issuers": "separate", "lookup": table}
    found = deliver(tmp_path, "in", ("7", "X"), ("7", "Y"), ("8", "X"), **apart)
    assert ("8", "X") in found
    if column:
        assert [found[("7", issuer)] for issuer in "XY"] == [{"STUDY-001"}, {"STUDY-002"}]
        dates = {pydicom.dcmread(path).StudyDate for path in images(tmp_path / "in-clean")}
        assert len(dates) == 3
    else:
        assert found.keys() == {("8", "X")}
        assert reasons(tmp_path / "in-clean") == ["lookup-without-issuer"] * 2


def test_a_new_id_of_the_table_never_passes_from_one_person_to_another(tmp_path):
    table = tmp_path / "table.csv"
    for name, old in (("first", "7"), ("second", "8")):
        table.write_text(f"old_patient_id,new_patient_id\n{old},STUDY-001\n")
        deliver(tmp_path, name, ("7", ""), ("8", ""), lookup=table)
    assert reasons(tmp_path / "first-clean") == []
    assert reasons(tmp_path / "second-clean") == ["lookup-conflict"]


def test_written_tables_of_several_issuers_are_read_back(tmp_path):
    rule = {"issuers": "separate", "lookup_out": True}
    first = deliver(tmp_path, "first", ("7", "X"), ("7", "Y"), ("7", ""), **rule)
    table = tmp_path / "first-clean" / "private" / "lookup.csv"
    again = deliver(
        tmp_path,
        "again",
        ("7", "X"),
        ("7", "Y"),
        ("7", ""),
        lookup=table,
        missing_lookup="quarantine",
        **rule,
    )
    assert again == first
    assert len({min(new) for new in first.values()}) == 3


def test_the_exit_code_says_when_nothing_is_clean(tmp_path, invoke):
    key = key_file(tmp_path)
    save(image(IssuerOfPatientID="X"), tmp_path / "in" / "a")
    words = ("deid", tmp_path / "in", tmp_path / "out", "--key", key, "--site", "north")
    code, out, err = invoke(*words, "--issuers", "listed")
    assert code == 3
    assert "1 x issuer-not-listed" in out
    assert "none of 1 file could be de-identified" in err
    assert (tmp_path / "out" / "private" / "quarantine.csv").is_file()
    assert invoke(*words[:2], tmp_path / "dry", *words[3:], "--issuers", "listed", "--dry-run")[0] == 3
    assert invoke(*words)[0] == 0
    save(image(2), tmp_path / "in" / "b")
    (tmp_path / "in" / "notes").write_text("text")
    assert invoke(*words)[0] == 0


def test_the_registry_is_shown_as_numbers(tmp_path, invoke):
    deliver(tmp_path, "in", ("0000123", "PACS"), ("0000123", "East Lab"), ("8", ""))
    (tmp_path / "domains.toml").write_text('site = ["PACS"]\n')
    words = ("registry", tmp_path / "site.key", "--site", "north")
    before = tree(tmp_path)
    code, out, _ = invoke(*words, "--issuer-domains", tmp_path / "domains.toml")
    assert code == 0
    assert "2 patients" in out
    assert "1 PatientID of an issuer is kept out" in out
    assert "pacs" in out
    assert not [text for text in ("0000123", "East", "east") if text in out]
    assert json.loads(invoke(*words, "--json")[1])["kept_out"] == 1
    assert invoke(*words[:3], "south")[0] == 3  # there is none
    assert invoke(*words[:3], "south", "--registry", tmp_path / REGISTRY)[0] == 4
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_several_processes_and_a_folder_share_one_registry(tmp_path):
    """A gateway: whichever process gets an ID first, no other issuer's patient joins it."""
    key = key_file(tmp_path)
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from deid_samples import image
        from meninx.deid import Deidentifier, KeyFile, Quarantined
        tool = Deidentifier(key=KeyFile(Path({str(key)!r})), site="north")
        for number in range(12):
            ds = image(number, PatientID=f"Q{{number}}", IssuerOfPatientID=sys.argv[1])
            try:
                print(number, tool.deidentify(ds).patient_id)
            except Quarantined as refusal:
                assert str(refusal.reason) == "issuer-conflict"
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def serve(issuer: str) -> dict[str, str]:
        words = [sys.executable, "-c", script, issuer]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return dict(line.split() for line in done.stdout.splitlines())

    with ThreadPoolExecutor(3) as pool:
        one, two, same = pool.map(serve, ("X", "Y", "X"))
    assert not one.keys() & two.keys()
    assert one == same
    assert len(one) + len(two) == 12
    found = deliver(tmp_path, "in", *[(f"Q{number}", "X") for number in range(12)])
    assert {who[1:]: min(new) for (who, _), new in found.items()} == one


@pytest.mark.slow
def test_kill_minus_nine_while_identities_are_registered(tmp_path):
    """Killed whenever it has registered somebody, it ends as an uninterrupted run does."""
    for number in range(40):
        patient = {"PatientID": f"Q{number // 2}", "IssuerOfPatientID": "X" if number % 2 else "Y"}
        save(image(number, study=number, **patient), tmp_path / "in" / f"{number:02d}")
    key_file(tmp_path)
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from meninx.deid import DeidConfig
        from meninx.deid.stage import run
        here = Path({str(tmp_path)!r})
        run(DeidConfig(key=here / "site.key", site="north", workers=1), here / "in", here / "out")
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    place = tmp_path / REGISTRY
    for attempt in range(8):
        child = subprocess.Popen([sys.executable, "-c", script], env=environment)
        size = place.stat().st_size if place.exists() else 0
        while child.poll() is None and (place.stat().st_size if place.exists() else 0) <= size:
            time.sleep(0.0005)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
        if attempt % 3 == 0 and place.exists():
            with place.open("ab") as stream:
                stream.write(b"claim 00")  # as if the kill had cut a line
    result = clean(tmp_path)
    killed = tree(tmp_path / "out")
    place.unlink()
    clean(tmp_path, "whole")
    assert killed == tree(tmp_path / "whole")
    assert result.quarantined == {"issuer-conflict": 20}


def test_a_stream_with_the_bytes_of_a_key_remembers_as_long_as_it_lives(tmp_path):
    tool = Deidentifier(key=KEY, site="north")
    first = tool.deidentify(image(1, IssuerOfPatientID="X")).patient_id
    with pytest.raises(Quarantined, match="issuer-conflict"):
        tool.deidentify(image(2, IssuerOfPatientID="Y"))
    assert tool.deidentify(image(3)).patient_id == first
    lasting = {"key": KEY, "site": "north", "registry": tmp_path / "r"}
    named = Deidentifier(**lasting)
    assert named.deidentify(image(1, IssuerOfPatientID="Y")).patient_id == first
    with pytest.raises(Quarantined, match="issuer-conflict"):
        Deidentifier(**lasting).deidentify(image(1, IssuerOfPatientID="X"))
