"""What a release hides, from whom, and what it costs: the card, its own page, its part of a report."""

from __future__ import annotations

from collections.abc import Sequence

from meninx.core.names import printable
from meninx.core.obfuscation_records import (
    AttackerRecord,
    CertificateRecord,
    ReleaseAuditRecord,
    UtilityLossRecord,
)
from meninx.obfuscate.asked_targets import missed_elsewhere
from meninx.obfuscate.audit_words import columns_words, history_words, measured_words, unknown_words
from meninx.obfuscate.release_verdict import FAILED, noticeable
from meninx.obfuscate.sealed_release import NOT_SEALED
from meninx.report import formatting, obfuscation_figures
from meninx.report.obfuscated_datasets import NOT_ATTACKED, ObfuscatedDataset
from meninx.report.obfuscation_figures import area, lost
from meninx.report.sources import TrainedRun
from meninx.report.table_model import Picture, ReportTable, Section, TableCell, Verdict, facts

ANCHOR = "hidden"
QUESTION = "Attribute hidden?"
STATIC = "Not a privacy measure"
RULE = (
    "green: the audit is valid and met the target that was set first, by the upper limit of every "
    "retrained attacker, and the published columns alone do not exceed it either; red: the target is "
    "missed, or without one the whole interval of a retrained attacker is above what permuted attributes "
    "give, or another audit of the release missed it; amber: not found, but without a target, or published "
    "columns may tell it, or the target was met and it is not known whether it was set first; grey: not "
    "attacked, void, or the record of an audit is missing"
)
_WORSE = ("green", "amber", "grey", "red")
_SUBJECTS = {
    "original": "original images",
    "released": "released images",
    "labels": "labels alone",
}
_STATIC_LEAD = (
    "These attackers never saw a released image: a change of the images alone defeats them, and the next "
    "attacker trains on the release. Their numbers say nothing about privacy."
)


def verdict_of_release(found: ObfuscatedDataset, *, anchor: str = ANCHOR) -> Verdict:
    """Return the card of one release."""
    audit = found.audit
    subject = f"{found.name}: {found.attribute or 'an attribute'} by {found.method}"
    if audit is None:
        return _without_audit(found, subject, anchor)
    colour, word = _colour(audit)
    elsewhere = missed_elsewhere(found.asked, audit) if colour != "red" else ""
    if elsewhere:
        colour, word = "red", "target missed in another audit"
    if found.lost and colour != "red":
        colour, word = "grey", "the record of a later audit is missing"
    if found.record is not None and found.record.attribute_published and colour != "red":
        colour, word = "red", "the table holds the attribute"
    if found.deterministic and colour != "red":
        colour, word = "red", "from a seed: not for release"
    if found.record is not None and audit.attribute != found.record.attribute:
        subject = f"{subject}; attacked was {printable(audit.attribute)}"
        colour, word = ("grey", "another attribute was attacked") if colour == "green" else (colour, word)
    highest = audit.highest_attacker
    shown = audit.chosen_attacker or highest
    value = formatting.DASH if shown is None else f"AUROC {shown.auroc:.3f}"
    target = f"; target {audit.target:g}" if audit.target else "; no target was set"
    more = [printable(audit.reason), columns_words(audit), history_words(audit) and _asked(audit)]
    more += [elsewhere, found.lost, unknown_words(audit)]
    reason = "".join(f"; {text}" for text in more if text)
    people = f"; {highest.patients:,} test patients" if highest is not None and highest.patients else ""
    detail = f"{subject}; {measured_words(audit)}{people}{target}{reason}"
    return Verdict(QUESTION, colour, word, value, detail, RULE, anchor)


def _without_audit(found: ObfuscatedDataset, subject: str, anchor: str) -> Verdict:
    """Return the card of a release beside which there is no audit."""
    words = "; ".join(line.words() for line in found.asked)
    detail = f"{subject}; {found.lost or NOT_ATTACKED}"
    if words and not found.lost:
        detail = f"{subject}; audited elsewhere, and the record is not here: {words}"
    missed = any(line.verdict == FAILED for line in found.asked)
    colour, word = ("red", "target missed in another audit") if missed else ("grey", "not attacked")
    if found.lost and not missed:
        word = "the record of the audit is missing"
    return Verdict(QUESTION, colour, word, formatting.DASH, detail, RULE, anchor)


def _asked(audit: ReleaseAuditRecord) -> str:
    """Return the history of targets as the end of a sentence."""
    return f"targets: {history_words(audit)}"


def _colour(audit: ReleaseAuditRecord) -> tuple[str, str]:
    """Return colour and word by the rule."""
    if audit.verdict == "void":
        return "grey", "the audit is void"
    if audit.verdict == "failed":
        return "red", "target missed"
    if audit.verdict == "passed":
        if columns_words(audit):
            return "amber", "the published columns may tell it"
        if audit.earlier_unknown:
            return "amber", "target met, and not known to be the first"
        return "green", "target met"
    if not any(item.low is not None for item in audit.retrained):
        return "grey", "not measured"
    chance = noticeable(audit)
    found = any(item.low is not None and item.low > chance for item in audit.retrained)
    return ("red", "attribute found") if found else ("amber", "not found, no target")


def card(
    releases: Sequence[ObfuscatedDataset], runs: Sequence[tuple[TrainedRun, ObfuscatedDataset | None]]
) -> Verdict | None:
    """Return the card of a report: the worst of all releases; None where nothing was obfuscated.

    Args:
        releases: the obfuscated datasets given.
        runs: runs that were trained on an obfuscated dataset, with it where it was given.
    """
    cards = [verdict_of_release(item) for item in releases]
    for run, release in runs:
        if release is None:
            detail = f"run {run.name}: its released dataset was not given here"
            cards.append(Verdict(QUESTION, "grey", "not known", formatting.DASH, detail, RULE, ANCHOR))
    return max(cards, key=lambda item: _WORSE.index(item.colour), default=None)


def trained_on(run: TrainedRun, release: ObfuscatedDataset | None) -> str:
    """Return what a run was trained on, and what is known of it, as a sentence without the run's name."""
    finding = (
        release.finding()
        if release is not None
        else "what attackers find in them is not known here: its released dataset was not given"
    )
    return f"trained on {printable(run.record.obfuscated)}; {finding}"


def obfuscation(
    releases: Sequence[ObfuscatedDataset], runs: Sequence[tuple[TrainedRun, ObfuscatedDataset | None]]
) -> tuple[Section, ...]:
    """Return a section per release for a report; one alone where only runs know of a release."""
    found = []
    for number, release in enumerate(releases):
        anchor = ANCHOR if not number else f"{ANCHOR}-{number + 1}"
        title = "Hidden attribute" if len(releases) == 1 else f"Hidden attribute: {release.name}"
        mine = tuple(f"Run {run.name} was {trained_on(run, it)}." for run, it in runs if it is release)
        parts = _parts(release, anchor)
        found.append(
            Section(
                anchor,
                title,
                (*mine, *(text for part in parts for text in part.lead)),
                tuple(picture for part in parts for picture in part.pictures),
                tuple(table for part in parts for table in part.tables),
                tuple(point for part in parts for point in part.points),
                cautions=tuple(dict.fromkeys(text for part in parts for text in part.cautions)),
                cards=(verdict_of_release(release, anchor=anchor),),
            )
        )
    lost_runs = [f"Run {run.name} was {trained_on(run, None)}." for run, it in runs if it is None]
    if lost_runs:
        place = ANCHOR if not found else f"{ANCHOR}-other"
        found.append(Section(place, "Hidden attribute: release not given", tuple(lost_runs)))
    return tuple(found)


def sections(found: ObfuscatedDataset, sheet: Picture | None = None) -> tuple[Section, ...]:
    """Return the sections of a release's own page, in the order in which they are read.

    Args:
        found: the release.
        sheet: pictures that the page may show; None for none.
    """
    first, *others = _parts(found, "part")
    if sheet is not None:
        first = Section(
            first.anchor, first.title, first.lead, (sheet,), first.tables, first.points, first.cautions
        )
    return (first, *others)


def _parts(found: ObfuscatedDataset, prefix: str) -> list[Section]:
    """Return all parts of what is known of a release."""
    audit = found.audit
    parts = [_what(found, prefix)]
    if audit is None:
        return parts
    parts += [_attacks(audit, prefix), _static(audit, prefix), _other_ways(audit, prefix)]
    if audit.certificates:
        parts.append(_proof(audit.certificates, prefix))
    return [*parts, _cost(audit, prefix), _made(audit, prefix)]


def _what(found: ObfuscatedDataset, prefix: str) -> Section:
    """Return what was hidden and by what."""
    record, audit = found.record, found.audit
    lead = [f"To hide: {found.attribute or 'not recorded'}. Method: {found.method}."]
    rows: list[tuple[str, object]] = []
    what = "feature vectors" if found.of_features else "images"
    if record is not None:
        rows += [
            ("classes", [printable(name) for name in record.classes]),
            ("labels to keep", [printable(name) for name in record.utility]),
            ("released", f"{record.cases:,} {what} of {found.patients or record.patients:,} patients"),
            ("budget", _budget(record.settings)),
            *((printable(name).replace("_", " "), _plain(value)) for name, value in record.facts.items()),
            (f"columns published beside the {what}", [printable(name) for name in record.published]),
            ("columns of the source that are not published", [printable(name) for name in record.withheld]),
            ("made", printable(record.made) or "time not recorded"),
        ]
    floor = (record.floor if record is not None else None) or (audit.floor if audit is not None else None)
    if floor is not None:
        lead.append(f"Label floor: {printable(floor.sentence or floor.refusal)}.")
    if found.sentence and record is None:
        lead.append(f"The dataset says: {printable(found.sentence)}. The record of the release is not here.")
    table = (facts("How it was made", rows),) if rows else ()
    return Section(f"{prefix}-what", "What was hidden, and by what", tuple(lead), tables=table,
                   cautions=_cautions(found))  # fmt: skip


def _cautions(found: ObfuscatedDataset) -> tuple[str, ...]:
    texts = [found.caveat()]
    if found.deterministic:
        texts.append(
            "NOT FOR RELEASE: what hides the attribute came from a seed. Whoever knows the seed can undo it."
        )
    audit = found.audit
    if found.record is not None and audit is not None and audit.attribute != found.record.attribute:
        was, hidden = printable(audit.attribute), printable(found.record.attribute)
        texts.append(f"The audit is about {was}, and the release was to hide {hidden}.")
    if audit is not None and audit.verdict == "void":
        texts.append(f"The audit is void: {printable(audit.reason)}.")
    if audit is not None and columns_words(audit):
        texts.append(f"{_capital(columns_words(audit))}.")
    if audit is not None and history_words(audit):
        texts.append(f"{_capital(_asked(audit))}. The first one decides.")
    if audit is not None:
        texts += [f"Not measured: {printable(text)}." for text in audit.not_measured]
        texts += [f"{_capital(unknown_words(audit))}."] if audit.earlier_unknown else []
        if audit.stated:
            texts.append(f'The release states of itself, which was not checked: "{printable(audit.stated)}".')
    texts += [f"{_capital(found.lost)}."] if found.lost else []
    if found.asked:
        asked = "; ".join(line.words() for line in found.asked)
        texts.append(f"All audits of this release, the first one first: {asked}.")
    if found.record is not None:
        texts += _of_the_record(found)
    return tuple(texts)


def _of_the_record(found: ObfuscatedDataset) -> list[str]:
    """Return what is to be known of the record of a release before it is believed."""
    texts = []
    if found.record is not None and found.record.attribute_published:
        texts.append("The released table holds the attribute itself.")
    if found.record is not None and not found.record.keyed_names:
        texts.append(
            "An earlier version made the release: rows and names of cases and patients are those of the "
            "source. They may tell the attribute, and nobody attacked them."
        )
    if not found.sealed:
        texts.append(
            f"{NOT_SEALED}. Method, settings and counts are the release's own statement, not checked here."
        )
    return texts


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _budget(settings: dict[str, object]) -> str:
    value = settings.get("budget")
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"mean change of a pixel {value:g} of the range" if known else "none"


def _plain(value: object) -> str:
    return printable(formatting.listed(value))


_ATTACKER = ("attacker", "AUROC", "95 % interval", "on original images", "asked", "patients", "knows")


def _attacks(audit: ReleaseAuditRecord, prefix: str) -> Section:
    """Return what retrained attackers find, with the controls."""
    every = (*audit.attackers, *audit.code_attacks, *audit.per_patient, *audit.with_columns)
    rows = [*(_attacker(item, audit) for item in every), *map(_not_measured, audit.not_measured)]
    note = (
        "The upper end of every interval on the test split is held against the target. Attackers of images "
        "or codes together with published columns count as far as they find more than these columns alone. "
        "The attacker that the validation split chooses is marked: its AUROC is not chosen on the test split."
    )
    tables = [
        ReportTable(
            "Attackers that were trained on the release", _ATTACKER, tuple(rows), wide=True, note=note
        )
    ]
    if audit.every_question:
        more = tuple(_attacker(item, audit, name=item.question or item.name) for item in audit.every_question)
        name = f"Attacker {printable(audit.chosen)}" if audit.chosen else "The highest attacker"
        tables.append(ReportTable(f"{name} on every question", _ATTACKER, (), more=more, wide=True))
    tables.append(_controls(audit))
    lead = (f"{_verdict_words(audit)} Attackers find a lower limit: another one may find more.",)
    picture = obfuscation_figures.attackers(audit, f"{prefix}-forest")
    return Section(f"{prefix}-attacks", "What a retrained attacker finds", lead,
                   (picture,) if picture is not None else (), tuple(tables))  # fmt: skip


def _verdict_words(audit: ReleaseAuditRecord) -> str:
    target = f"target {audit.target:g}" if audit.target else "no target was set"
    reason = f" ({printable(audit.reason)})" if audit.reason else ""
    return f"Verdict: {printable(audit.verdict)}{reason}; {measured_words(audit)}; {target}."


def _not_measured(text: str) -> tuple[TableCell, ...]:
    """Return the row of an attack that could not be made."""
    empty = (TableCell(formatting.DASH),) * 5
    return (TableCell("not measured", head=True), *empty, TableCell(printable(text)))


def _attacker(item: AttackerRecord, audit: ReleaseAuditRecord, name: str = "") -> tuple[TableCell, ...]:
    mark = "chosen on validation" if item.retrained and item.name == audit.chosen and not name else ""
    clean = formatting.DASH if item.clean_auroc is None else f"{item.clean_auroc:.3f}"
    classes = ", ".join(f"{printable(key)} {count:,}" for key, count in item.classes.items())
    return (
        TableCell(printable(name or item.name), sub=mark, head=True),
        TableCell(formatting.DASH if item.auroc is None else f"{item.auroc:.3f}", number=True),
        TableCell(_interval(item.low, item.high), number=True),
        TableCell(clean, number=True),
        TableCell(printable(item.question) or formatting.DASH),
        TableCell(f"{item.patients:,}", sub=classes, number=True),
        TableCell(printable(item.refusal or item.knows) or formatting.DASH),
    )


def _interval(low: float | None, high: float | None) -> str:
    return formatting.DASH if low is None or high is None else f"[{low:.3f}, {high:.3f}]".replace("-", "−")


def _controls(audit: ReleaseAuditRecord) -> ReportTable:
    """Return the controls, without which the numbers above say nothing."""
    rows: list[tuple[str, object]] = []
    if audit.clean is not None:
        rows.append(
            (
                "original images (positive control)",
                f"{area(audit.clean)} by {printable(audit.clean.name)}; at least {audit.clean_floor:g} is "
                "needed, or the audit is void",
            )
        )
    if audit.control is not None:
        rows.append(("constant images (negative control)", f"{area(audit.control)}; must be 0.5"))
    if audit.null is not None:
        null = audit.null
        rows.append(
            (
                "permuted attributes",
                f"mean {null.mean:.3f}, 95 % below {null.high:.3f} in {null.permutations:,} permutations; "
                f"with the true attribute {null.observed:.3f}, p = {null.p_value:.2g}",
            )
        )
        if null.network:
            found = ", ".join(f"{value:.3f}" for value in null.network)
            rows.append(("network on permuted attributes", found))
    else:
        rows.append(("permuted attributes", "not measured"))
    return facts("Controls", rows)


def _static(audit: ReleaseAuditRecord, prefix: str) -> Section:
    rows = tuple(_attacker(item, audit) for item in audit.static)
    table = ReportTable(f"{STATIC}: attackers of original images", _ATTACKER, (), more=rows, wide=True)
    tables = (table,) if rows else ()
    return Section(f"{prefix}-static", STATIC, (_STATIC_LEAD,), tables=tables)


def _other_ways(audit: ReleaseAuditRecord, prefix: str) -> Section:
    """Return what else tells the attribute or the patient."""
    tables = []
    rows = tuple(_attacker(item, audit) for item in (*audit.columns, *audit.output_leaks))
    if rows:
        note = (
            "The row of the published columns is judged like the attackers above: trained on patients of the "
            "training split, judged on those of the test split. The label floor at the top asks the same of "
            "all patients, by folds, before anything is fitted, so that it differs by chance alone. Outputs "
            "are those of models of the labels: a published model tells what its outputs tell."
        )
        caption = "The attribute from published columns and from outputs of models"
        tables.append(ReportTable(caption, _ATTACKER, rows, wide=True, note=note))
    linked = tuple(
        (
            TableCell(_SUBJECTS.get(item.subject, printable(item.subject)), head=True),
            TableCell(formatting.DASH if item.auroc is None else f"{item.auroc:.3f}", number=True),
            TableCell(_interval(item.low, item.high), number=True),
            TableCell(f"{item.patients:,}", number=True),
            TableCell(printable(item.refusal) or formatting.DASH),
        )
        for item in audit.reidentification
    )
    if linked:
        note = (
            "Are two images of one patient recognised as such? Hiding an attribute does not hide the patient."
        )
        columns = ("from", "AUROC", "95 % interval", "patients", "remark")
        tables.append(ReportTable("Re-identification", columns, linked, note=note))
    return Section(f"{prefix}-other", "What else tells the attribute or the patient", tables=tuple(tables))


def _proof(certificates: Sequence[CertificateRecord], prefix: str) -> Section:
    """Return the certificates, or how many patients they would need."""
    rows = tuple(
        (
            TableCell(" against ".join(map(printable, item.groups)), head=True),
            TableCell("not certified" if item.limit is None else f"≤ {item.limit:.3f}", number=True),
            TableCell(f"{item.needed:,}", number=True),
            TableCell(" and ".join(f"{count:,}" for count in item.patients), number=True),
            TableCell(f"{item.leaves:,}", number=True),
            TableCell(printable(item.sentence)),
        )
        for item in certificates
    )
    columns = ("classes", "AUROC of any attacker", "patients needed", "patients there", "codes", "in words")
    lead = (
        "A certificate bounds every attacker, also one that nobody tried. It holds for the code of one image "
        "of a new patient, without the columns beside it, conditional on the fitted method, and for one "
        "release that was chosen in advance: the best of several has a certificate that is too good.",
    )
    return Section(
        f"{prefix}-proof",
        "Certificate",
        lead,
        tables=(ReportTable("Certificates", columns, rows, wide=True),),
    )


_LOSS = ("label", "regime", "original images", "released images", "loss", "95 % interval", "patients")


def _cost(audit: ReleaseAuditRecord, prefix: str) -> Section:
    """Return what the release costs."""
    every, groups = (
        [item for item in audit.utility if bool(item.group) is grouped] for grouped in (False, True)
    )
    note = (
        "Drop-in: the model was trained on original images. Retrained: on released ones. Loss: original "
        "minus released, on the same resampled patients."
    )
    tables = (
        [ReportTable("Loss by label", _LOSS, tuple(map(_loss, every)), wide=True, note=note)] if every else []
    )
    if groups:
        rows = tuple(map(_loss, groups))
        caption = f"Loss by label and group of {printable(audit.attribute)}"
        tables.append(ReportTable(caption, _LOSS, (), more=rows, wide=True))
    if audit.distortion is not None:
        item = audit.distortion
        tables.append(
            facts(
                "Distortion",
                (
                    (
                        "mean change of a pixel (L1)",
                        f"{item.l1:.4f} of the range; training split {item.train_l1:.4f}",
                    ),
                    ("largest change (L∞)", f"{item.linf:.3f} of the range"),
                    ("structural similarity (SSIM)", f"{item.ssim:.3f}"),
                    ("images", item.images),
                ),
            )
        )
    picture = obfuscation_figures.losses(audit, f"{prefix}-loss")
    lead = () if every else ("No utility label was measured.",)
    return Section(f"{prefix}-cost", "What it costs", lead, (picture,) if picture is not None else (),
                   tuple(tables))  # fmt: skip


def _loss(item: UtilityLossRecord) -> tuple[TableCell, ...]:
    def shown(value: float | None) -> str:
        return formatting.DASH if value is None else f"{value:.3f}"

    known = item.loss is not None
    return (
        TableCell(printable(item.label), sub=printable(item.group), head=True),
        TableCell(printable(item.regime)),
        TableCell(shown(item.clean), number=True),
        TableCell(shown(item.released), number=True),
        TableCell(lost(item).split(" [")[0], number=True),
        TableCell(_interval(item.loss_low, item.loss_high) if known else formatting.DASH, number=True),
        TableCell(f"{item.patients:,}", number=True),
    )


def _made(audit: ReleaseAuditRecord, prefix: str) -> Section:
    """Return how the audit was made and how to repeat it."""
    rows: list[tuple[str, object]] = [
        (f"patients, {printable(name)}", count) for name, count in audit.splits.items()
    ]
    rows += [
        ("method fitted on", "other training patients than the attackers'" if audit.divided else
         "nothing that it learned of single patients, or by folds"),
        ("classes", [printable(name) for name in audit.classes]),
        ("labels", [printable(name) for name in audit.labels]),
        ("published columns", [printable(name) for name in audit.published]),
        ("patients who choose", ", ".join(f"{printable(k)} {v:,}" for k, v in audit.validation.items())),
        ("epochs of every network", audit.strength.epochs),
        ("releases averaged, at most", audit.strength.draws),
        ("permutations", audit.strength.permutations),
        ("networks", list(audit.strength.networks)),
        ("seed of attackers", audit.seed),
        ("seconds", f"{audit.seconds:,.0f}"),
        ("audited", printable(audit.released.made) or "time not recorded"),
        ("command", printable(" ".join(audit.released.command)) or "not recorded"),
        ("versions", ", ".join(f"{printable(k)} {printable(v)}" for k, v in audit.released.versions.items())),
    ]  # fmt: skip
    return Section(f"{prefix}-made", "How it was measured", tables=(facts("Audit of the release", rows),))
