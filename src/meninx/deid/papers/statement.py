"""The statement on a clean archive: one page for the file of the officer who approves its delivery.

``statement.html`` says what was applied, what was checked and what remains. Every word follows from
``deid.json`` by :func:`of`, so the page holds no value of a patient, and a run that is repeated gives the
same bytes. It has no date: whoever signs it on paper writes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from meninx.core import files, review_words
from meninx.core.artifacts import DeidRecord
from meninx.core.clean_archive import STATEMENT
from meninx.core.names import printable
from meninx.core.summaries import mostly_filled, not_searched, number_of, searched_for_text, unsearched
from meninx.deid.options import EVERY_CODE, KEEPING_AGES
from meninx.dicomfile import media_directory, refusals

EDITION = "2026d"  # of DICOM PS3.15
_MOST_ROWS, _MOST_REASONS, _MOST_LETTERS = (
    6,
    5,
    160,
)  # of a list and of a value on the page, so that it stays one page
_MEANINGS = {code.value: code.meaning for code in EVERY_CODE}


@dataclass(frozen=True)
class ArchiveStatement:
    """What is stated of a clean archive, in words.

    Attributes:
        site: name of the site; may be empty.
        version: version of meninx that wrote the archive.
        codes: code values of CID 7050 with their meanings, and the files that carry each.
        actions: (subject, what was done).
        checked: (subject, what was found).
        remains: sentences about what was not removed or cannot be excluded.
        proof: (subject, digest or fingerprint).
    """

    site: str
    version: str
    codes: tuple[tuple[str, str], ...]
    actions: tuple[tuple[str, str], ...]
    checked: tuple[tuple[str, str], ...]
    remains: tuple[str, ...]
    proof: tuple[tuple[str, str], ...]


def of(record: DeidRecord) -> ArchiveStatement:
    """Return what is stated of the archive that a summary describes."""
    codes = tuple((_short(code), _meaning(record, code)) for code in record.codes)
    return ArchiveStatement(
        site=_short(record.site),
        version=_short(record.version),
        codes=codes,
        actions=_applied(record),
        checked=_checked(record),
        remains=remains(record),
        proof=(
            ("signing key of the site (fingerprint)", _short(record.signer)),
            ("list of all files (SHA-256 of checksums.sha256)", _short(record.checksums)),
            (
                f"audit log of {number_of(record.audit_lines, 'line')} (its last digest)",
                _short(record.audit_head),
            ),
        ),
    )


def _meaning(record: DeidRecord, code: str) -> str:
    said = _MEANINGS.get(code, "unknown to this version")
    files_ = record.code_files.get(code)
    return said if files_ is None else f"{said} in {number_of(files_, 'file')}"


def _applied(record: DeidRecord) -> tuple[tuple[str, str], ...]:
    changes = [
        f"{item.name}: {item.chosen} (usual: {item.usual})"
        + (f", {number_of(item.files, 'image')}" if item.files is not None else "")
        for item in record.departures
    ]
    pixels = {
        "redact": _searched(record),
        "quarantine": "images that may hold text by their header were kept out",
        "keep": "NOT searched; images that may hold text are in the archive",
    }
    dates = "removed"
    if "retain-modified-dates" in record.options:
        dates = "shifted by whole days, one to ten years back, by the same number for all files of a patient"
    if "retain-full-dates" in record.options:
        dates = "kept"
    ages = f"above {record.max_age} years: capped, and no birth date"
    if not KEEPING_AGES & set(record.options) and not record.overrides:
        ages = "removed, with birth dates"
    return (
        ("Rules", f"DICOM PS3.15 Annex E, edition {EDITION}; preset {_short(record.profile)}"),
        ("Dates", dates),
        ("Ages", ages),
        ("Identities", "pseudonyms and UIDs are derived from a secret key that stays at the site"),
        ("Pixels", pixels.get(record.pixels, "not stated")),
        ("Departures from the preset", _listed(changes) or "none"),
    )


def _searched(record: DeidRecord) -> str:
    if record.pixels_searched or record.images is None:
        return (
            "images that may hold text by their header were searched; text that is not technical was filled"
        )
    if refusals.kept_out_after_search(record.quarantined):
        return "images that may hold text by their header were searched; none of them was written"
    unread = (refusals.Reason.TEXT_POSSIBLE, refusals.Reason.BURNED_IN_DECLARED)
    if any(record.quarantined.get(reason) for reason in unread):
        return "images that may hold text by their header were kept out, because nothing read them"
    return "no written image was searched, because no header gives a cause"


def _checked(record: DeidRecord) -> tuple[tuple[str, str], ...]:
    kept_out = refusals.kept_out_after_search(record.quarantined)
    pixels = searched_for_text(record.pixels_searched, kept_out, record.pixels_redacted, record.layouts)
    if words := _not_searched(record):
        pixels += f"; {words}"
    if record.pixels_mostly_filled:
        pixels += f"; {mostly_filled(record.pixels_mostly_filled)}"
    if record.burned_in_unknown:
        pixels += f"; {unsearched(record.burned_in_unknown)}"
    return (
        (
            "Files",
            f"{record.files_read:,} read, {record.files_written:,} written: "
            f"{number_of(record.patients, 'patient')}, {number_of(record.studies, 'study', 'studies')}, "
            f"{record.series:,} series",
        ),
        (
            "Every written file",
            "was read back and searched for its own original names, identifiers, dates and UIDs; "
            + number_of(
                record.residual_findings,
                "file in which one was found was",
                "files in which one was found were",
            )
            + " kept out",
        ),
        ("Pixels", pixels),
        *([("Review of the pixels", _review(record))] if record.layouts else []),
        *(
            [("DICOMDIRs of the source", media_directory.directories_in_words(record.directories))]
            if record.directories
            else []
        ),
        ("Kept out, never copied", _reasons(record.quarantined) or "none"),
    )


def _review(record: DeidRecord) -> str:
    if record.review is None:
        return "no decisions of reviewers were applied"
    return "; ".join((review_words.decided(record.review), *review_words.left(record.review)))


def _reasons(quarantined: Mapping[str, int]) -> str:
    """Return every reason with its number of files: the most frequent ones with their meaning.

    Codes that no version of this program writes are counted together, because the page has a limit.
    """
    known = [(code, number) for code, number in quarantined.items() if refusals.meaning(code)]
    known.sort(key=lambda pair: (-pair[1], pair[0]))
    found = [f"{number:,} × {code} ({refusals.meaning(code)})" for code, number in known[:_MOST_REASONS]]
    if known[_MOST_REASONS:]:
        found.append("also " + ", ".join(f"{number:,} × {code}" for code, number in known[_MOST_REASONS:]))
    others = sum(quarantined.values()) - sum(number for _, number in known)
    return "; ".join([*found, *([f"{others:,} × reasons unknown to this version"] if others else [])])


def _faces(record: DeidRecord) -> str:
    if record.defacing != "head":
        return "Faces can be rebuilt from head scans."
    return (
        f"A mask of the face was removed from {record.series_defaced:,} CT and MR series; identification "
        "from the rest of the head or from the brain itself stays possible. Contours, segmentations and "
        "surfaces that may outline a head are kept out. Other kinds of images were not treated."
    )


def remains(record: DeidRecord) -> tuple[str, ...]:
    """Return in sentences what the archive may still tell about a patient; the report has the same words."""
    found = []
    if record.contradicting:
        found.append(
            "Contradicting name, birth date or sex under one PatientID: "
            f"{number_of(record.contradicting, 'patient')}. Two people may count as one; "
            "somebody has to look at private/contradictions.csv."
        )
    if record.deidentified_before:
        found.append(
            "De-identified by meninx before, under another key or site: "
            f"{number_of(record.deidentified_before, 'image')}. Their patients count as other ones."
        )
    if record.burned_in_unknown:
        found.append(f"{unsearched(record.burned_in_unknown)}: somebody has to look at each.")
    if record.pixels == "redact" and (words := _text_in_pixels(record)):
        found.append(words)
    found += [
        _faces(record),
        "Rare findings, implants and combinations of what stays (age, sex, size, descriptions) can single "
        "out a person: de-identified is not anonymous.",
        "Whoever holds the site's key and the originals can link both. The folder private/ holds originals' "
        "identifiers and must not leave the site.",
        "Documents, videos and other kinds of object that nothing reads were kept out and are not part of "
        "this statement.",
    ]
    return tuple(found)


def _text_in_pixels(record: DeidRecord) -> str:
    """Return what the search for text may have missed, and who has to look."""
    if record.images is not None and not record.pixels_searched:
        return _left_out(record).strip()
    searched = (
        "The search for text in pixels misses some; the recall that was measured stands in the benchmarks of "
        f"meninx. {_left_out(record)}"
    )
    if record.review is not None and not review_words.not_reviewed(record.review):
        return f"{searched}Reviewers decided once per layout, not image by image."
    return f"{searched}Look at private/layouts.html before the archive leaves."


def _left_out(record: DeidRecord) -> str:
    """Return how many images were not searched; older archives do not have the number."""
    if record.images is None:
        return "" if record.search_all else "Images whose header gives no cause were not searched. "
    words = _not_searched(record)
    return f"{words}, because the header gives no cause. " if words else ""


def _not_searched(record: DeidRecord) -> str:
    """Return how many images were not searched, of those written or searched; empty where all were."""
    if record.images is None or record.images <= record.pixels_searched:
        return ""
    kept_out = refusals.kept_out_after_search(record.quarantined)
    return not_searched(record.pixels_searched + kept_out, record.images + kept_out)


def write(root: Path, record: DeidRecord) -> None:
    """Write the statement beside the summary, unless it is there already.

    Raises:
        StorageError: the disk refused.
    """
    path, content = root / STATEMENT, page(record)
    if not (path.is_file() and path.read_bytes() == content):
        files.write_bytes(path, content)


def page(record: DeidRecord) -> bytes:
    """Return the statement on an archive as one HTML page without script or address."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return (environment.from_string(_TEMPLATE).render(stated=of(record)) + "\n").encode()


def _listed(every: Sequence[str]) -> str:
    """Return the first entries of a list and the number of the others."""
    left = len(every) - _MOST_ROWS
    shown = [_short(one) for one in every[:_MOST_ROWS]]
    return "; ".join([*shown, *([f"and {left:,} more in deid.json"] if left > 0 else [])])


def _short(text: str) -> str:
    plain = printable(text)
    return plain if len(plain) <= _MOST_LETTERS else f"{plain[: _MOST_LETTERS - 1]}…"


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="meninx">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Statement on the de-identification of an archive</title>
<style>
:root { --ink: #1b2430; --muted: #556070; --line: #d6dbe2; --page: #ffffff; }
* { box-sizing: border-box; }
html { font-size: 15px; }
body { max-width: 52rem; margin: 0 auto; padding: 1.5rem; color: var(--ink); background: var(--page);
  font: 1rem/1.4 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.05rem; margin: 1rem 0 .3rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p, ul { margin: 0 0 .4rem; } ul { padding-left: 1.1rem; }
.sub { color: var(--muted); font-size: .85rem; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem .7rem .2rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 500; width: 20%; } td, .sub { overflow-wrap: anywhere; }
code { font: .82rem/1.4 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
.lines { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 1.5rem; margin-top: 1.6rem; }
.lines div { border-top: 1px solid var(--muted); padding-top: .2rem; color: var(--muted); font-size: .85rem; }
@media (max-width: 40rem) { th, td { display: block; width: auto; padding-right: 0; }
  th { border-bottom: 0; padding-bottom: 0; } }
@page { size: A4; margin: 11mm; }
@media print { html { font-size: 8pt; } body { padding: 0; max-width: none; line-height: 1.25; }
  h2 { margin-top: .5rem; padding-top: .35rem; break-after: avoid; } tr, li { break-inside: avoid; } }
</style>
</head>
<body>
<h1>Statement on the de-identification of an archive</h1>
<p class="sub">{% if stated.site %}Site: {{ stated.site }}. {% endif %}Made by meninx
{{ stated.version }} from deid.json, which lies beside this page.</p>
<h2>What was applied</h2>
<table>
{% for name, value in stated.actions %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
<tr><th scope="row">Codes in the files (CID 7050)</th><td>
{% for value, meaning in stated.codes %}<code>{{ value }}</code> {{ meaning }}{{ "; " if not loop.last }}
{% endfor %}</td></tr>
</table>
<h2>What was checked</h2>
<table>
{% for name, value in stated.checked %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
<h2>What remains</h2>
<ul>
{% for sentence in stated.remains %}
<li>{{ sentence }}</li>
{% endfor %}
</ul>
<h2>Proof</h2>
<table>
{% for name, value in stated.proof %}
<tr><th scope="row">{{ name }}</th><td><code>{{ value or "none" }}</code></td></tr>
{% endfor %}
</table>
<p class="sub">Check the archive with <code>meninx verify FOLDER --signer FINGERPRINT</code>, with the
fingerprint as the site told it to you. This page is no legal opinion.</p>
<div class="lines"><div>approved by</div><div>date</div><div>signature</div></div>
</body>
</html>
"""
