"""The section on audits: three lines, their meaning in plain words, the numbers behind them, open ends."""

from __future__ import annotations

from collections.abc import Sequence

from meninx.core.audit_parts import PARTS
from meninx.core.audit_summary import DONE, NO_GUARANTEE, AuditRecord, VerdictLine, registration_hash
from meninx.core.findings import GUARANTEED, IMPLEMENTATION, MEASURED, Finding
from meninx.core.percentages import at_most, percent
from meninx.report import audit_figures, formatting
from meninx.report.audits import Audit
from meninx.report.context import ReportContext
from meninx.report.table_model import ReportTable, Section, TableCell, Verdict, facts

QUESTION = "What did the audit find?"
TITLES = {GUARANTEED: "Guaranteed", MEASURED: "Measured attacks", IMPLEMENTATION: "Implementation"}
_WORSE = ("green", "amber", "grey", "red")
_SIGNS = {"green": "✓ green", "amber": "! amber", "red": "✗ red", "grey": "? grey"}
_ROLE = (
    "A bound is proven and holds for every attack. An attack that was carried out is a lower limit of the "
    "risk: another attack may find more, and one that finds nothing is no evidence of privacy. The audit of "
    "the implementation tests whether the program does what the bound assumes."
)
_WORDS = (
    ("canary", "A made-up patient that takes part in a training or not, by a coin."),
    (
        "μ (mu)",
        "Distance of two normal distributions, with and without one privacy unit (patient or case); 0: no "
        "attack works.",
    ),
    ("q", "Sample rate: probability that a privacy unit (patient or case) takes part in a step."),
    ("σ (sigma)", "Noise multiplier: standard deviation of the noise over the clipping threshold C."),
    ("AUC", "Probability that an attack scores a member above a patient who took no part; 0.5 is guessing."),
    ("TPR and FPR", "Shares of members, and of patients who took no part, whom an attack calls members."),
    ("f-DP", "A guarantee as a curve: the largest TPR that it allows at each FPR."),
)
_LAW = (
    (
        "GDPR Art. 35(7)(b): necessity and proportionality",
        "not shown",
        "Is training on these patients' data necessary and proportionate for the purpose?",
    ),
    (
        "GDPR Art. 35(7)(c): risks to the rights of patients",
        "the three lines, the bounds and the attacks of this audit",
        "Are these risks acceptable, also for groups with a higher one?",
    ),
    (
        "GDPR Art. 35(7)(d): measures against the risks",
        "mechanism facts, and whether the program keeps its guarantee",
        "Which further measures are needed: access control, contracts, limits on queries?",
    ),
    (
        "EDPB Opinion 28/2024: likelihood of extracting personal data from the model, or of obtaining it by "
        "queries, with all means reasonably likely to be used",
        "bounds for every attacker; attacks of the plan only",
        "Is the likelihood insignificant for this model and its recipients? Which means were not tested?",
    ),
)


def audit(context: ReportContext) -> Section:
    """Return the section on the audits of the runs given."""
    audited = [(run.name, run.audit) for run in context.runs if run.audit is not None]
    missing = [run.name for run in context.runs if run.audit is None]
    if not audited:
        text = "No run given here was audited as a whole (meninx audit RUN)."
        return Section("audit", "Audit", (f"{text} What attacks find on its model is not known.",))
    headline = context.headline.name if context.headline is not None else ""
    shown, found = next((item for item in audited if item[0] == headline), audited[0])
    lead = [_ROLE, *(f"Run {name} was not audited." for name in missing)]
    tables = [_side_by_side(audited)] if len(audited) > 1 else []
    tables += [means_table(found.record), *number_tables(found.record)]
    tables += [
        facts("Mechanism and origin", found.record.facts),
        plan_table(found.record),
        law_table(),
        words_table(),
    ]
    if len(audited) > 1:
        lead.append(f"Figures and numbers below are those of run {shown}.")
    pictures = audit_figures.pictures(found, "audit")
    points = tuple(f"Not tested: {text}" for text in found.record.not_tested)
    return Section(
        "audit", "Audit", tuple(lead), tuple(pictures), tuple(tables), points,
        cards=line_cards(found.record, anchor="audit"), cautions=_cautions(found.record),
    )  # fmt: skip


def _side_by_side(audited: Sequence[tuple[str, Audit]]) -> ReportTable:
    """Return the three lines of several runs, a row for each run."""
    rows = tuple(
        (
            TableCell(name, head=True),
            *(TableCell(_SIGNS[line.colour], sub=f"{line.word}. {line.words}") for line in item.record.lines),
        )
        for name, item in audited
    )
    return ReportTable("Audits of all runs", ("run", *TITLES.values()), rows, wide=True)


def audit_card(context: ReportContext) -> Verdict:
    """Return the card that says what the audit found: the worst of the three lines of one run.

    It is the run that the page judges usefulness of; another one where that was not audited.
    """
    limit = "the worst of three lines: guaranteed, measured attacks, implementation; each states its rule"
    audited = [(run.name, run.audit.record) for run in context.runs if run.audit is not None]
    missing = [run.name for run in context.runs if run.audit is None]
    if not audited:
        detail = "no attack on a model given here was carried out" if context.runs else "no run was given"
        return Verdict(QUESTION, "grey", "not audited", formatting.DASH, detail, limit, "audit")
    headline = context.headline.name if context.headline is not None else ""
    name, record = next((item for item in audited if item[0] == headline), audited[0])
    worst = max(record.lines, key=lambda line: _WORSE.index(line.colour))
    words = [f"{TITLES[line.line].lower()}: {line.colour}, {line.word}" for line in record.lines]
    detail = f"run {name}: {'; '.join(words)}"
    others = [other for other, _ in audited if other != name]
    detail += f"; below also {formatting.joined(others)}" if others else ""
    detail += f"; not audited: {formatting.joined(missing)}" if missing else ""
    return Verdict(QUESTION, worst.colour, worst.word, _headline(worst, record), detail, limit, "audit")


def sections(found: Audit) -> tuple[Section, ...]:
    """Return the sections of an audit's own page, in the order in which they are read."""
    record = found.record
    pictures = tuple(audit_figures.pictures(found, "audit"))
    by_line = {name: [item for item in record.findings if item.line == name] for name in TITLES}
    guaranteed, measured, implementation = (
        _findings_tables(by_line[name], record) for name in (GUARANTEED, MEASURED, IMPLEMENTATION)
    )
    return (
        Section(
            "meaning", "What an attacker can learn", (_ROLE,), tables=(means_table(record),),
            cautions=_cautions(record),
        ),
        Section("numbers", "Bound, attacks and audit", pictures=pictures),
        Section("guaranteed", TITLES[GUARANTEED], _lead(record, GUARANTEED), tables=guaranteed),
        Section("measured", TITLES[MEASURED], _lead(record, MEASURED), tables=measured),
        Section(
            "implementation", TITLES[IMPLEMENTATION], _lead(record, IMPLEMENTATION), tables=implementation
        ),
        Section("untested", "What was not tested", points=record.not_tested),
        Section(
            "mechanism", "Mechanism and origin",
            tables=(facts("The audited run", record.facts), plan_table(record), words_table()),
        ),
        Section(
            "law", "Open questions for a person", tables=(law_table(),),
            lead=("This page answers none of them. It is material for whoever has to.",),
        ),
    )  # fmt: skip


def line_cards(record: AuditRecord, *, anchor: str = "") -> tuple[Verdict, ...]:
    """Return the three lines as cards.

    Args:
        record: the summary of an audit.
        anchor: where the cards lead to; by default to the section of the line's name.
    """
    return tuple(
        Verdict(
            TITLES[line.line], line.colour, line.word, _headline(line, record), line.words, line.rule,
            anchor or line.line,
        )
        for line in record.lines
    )  # fmt: skip


def _headline(line: VerdictLine, record: AuditRecord) -> str:
    """Return the number that decides a line, or a dash: bound, attack, or distance of the canaries."""
    if line.word == NO_GUARANTEE:
        return "no bound"
    known = [item for item in record.findings if item.line == line.line and item.value is not None]
    if line.line == MEASURED:
        return _measured_headline(line, [item for item in known if "control" not in item.key])
    end, words = ("/largest-tpr@fpr=0.01", "≤ {}") if line.line == GUARANTEED else ("/mu", "μ {}")
    found = next((item for item in known if item.key.endswith(end)), None)
    if found is None or found.value is None:
        return formatting.DASH
    return words.format(at_most(found.value) if line.line == GUARANTEED else found.interval())


def _measured_headline(line: VerdictLine, known: Sequence[Finding]) -> str:
    """Return the finding that decides the colour; where nothing was found, the largest area of an attack."""
    deciding = next((item for item in known if item.colour == line.colour and not item.group), None)
    if deciding is None or line.colour not in ("red", "amber"):
        areas = [item for item in known if item.key.endswith("/auc") and not item.group]
        deciding = max(areas, key=lambda item: item.value or 0.0, default=None)
    if deciding is None or deciding.value is None:
        return formatting.DASH
    area = deciding.key.endswith("/auc")
    return f"AUC {formatting.number(deciding.value)}" if area else percent(deciding.value)


def means_table(record: AuditRecord) -> ReportTable:
    """Return what the guarantee means for an attacker with a few candidates."""
    rows = tuple(
        (
            TableCell(f"1 of {item.candidates:,}", head=True),
            TableCell(percent(item.guess), sub="exact", number=True),
            TableCell(f"≤ {at_most(item.most)}" if item.most < 1 else "no bound", number=True,
                      sub="proven" if item.most < 1 else ""),
            TableCell(item.words),
        )
        for item in record.sentences
    )  # fmt: skip
    columns = ("narrowed to", "blind guess", "any attack", "in words")
    return ReportTable("An attacker who already knows much", columns, rows, wide=True)


def number_tables(record: AuditRecord) -> list[ReportTable]:
    """Return the findings of an audit, a table for each line."""
    found = []
    for name in (GUARANTEED, MEASURED, IMPLEMENTATION):
        items = [item for item in record.findings if item.line == name]
        found += list(_findings_tables(items, record))
    return found


def _findings_tables(items: Sequence[Finding], record: AuditRecord) -> tuple[ReportTable, ...]:
    """Return findings part by part: numbers first, then controls; groups are folded away."""
    tables = []
    for part in record.parts:
        mine = [item for item in items if item.key.startswith(f"{part.name}/")]
        if not mine:
            continue
        folded = [item for item in mine if item.group or item.value is None]
        rest = [item for item in mine if item not in folded]
        numbers = [item for item in rest if "control" not in item.key]
        controls = [item for item in rest if "control" in item.key]
        name = PARTS[part.name].title
        if numbers or folded:
            note = "Folded: groups of patients, and numbers that could not be measured." if folded else ""
            rows, more = tuple(map(_row, numbers)), tuple(map(_row, folded))
            tables.append(ReportTable(name, _COLUMNS, rows, more=more, wide=True, note=note))
        if controls:
            tables.append(ReportTable(f"{name}: controls", _COLUMNS, tuple(map(_row, controls)), wide=True))
    return tuple(tables)


_COLUMNS = ("number", "value", "interval", "rests on", "guessing gives", "guarantee allows", "verdict")


def _row(item: Finding) -> tuple[TableCell, ...]:
    known = item.value is not None
    sample = f"n = {item.n:,} {item.counted}" if item.n else "no sample: computed"
    return (
        TableCell(item.words, sub=item.key, head=True),
        TableCell(formatting.number(item.value) if known else formatting.DASH, number=True),
        TableCell(item.interval() if known else formatting.DASH, number=True),
        TableCell(sample),
        TableCell(formatting.number(item.null), number=True),
        TableCell(formatting.number(item.bound), number=True),
        TableCell(_SIGNS[item.colour], sub=item.reason),
    )


def plan_table(record: AuditRecord) -> ReportTable:
    """Return when the plan was made and how to repeat the audit."""
    plan = record.plan
    bound = registration_hash(plan.sha256, record.origin.run, record.origin.weights)
    rows: list[tuple[str, object]] = [
        ("plan", f"sha256 {plan.sha256}"),
        ("plan and run", f"sha256 {bound}"),
        ("registration", plan.words()),
    ]
    rows += [
        (
            "earlier plan",
            f"sha256 {item.sha256}, registered {item.registered or 'at a time not recorded'}, "
            + ("with results" if item.results else "without results"),
        )
        for item in plan.earlier
    ]
    for part in record.parts:
        name = PARTS[part.name].title
        took = f", {part.seconds:,.0f} s" if part.seconds else ""
        done = f"done, record sha256 {part.sha256}{took}"
        rows.append((name.lower(), done if part.state == DONE else f"NOT done: {part.reason}"))
    if record.deterministic:
        rows.append(("randomness", "from a seed, so that the audit can be repeated bit for bit"))
    rows += [("condition that is met", text) for text in record.conditions]
    rows += [("audited", record.origin.made or "time not recorded"), ("to repeat", record.rerun)]
    versions = ", ".join(f"{name} {version}" for name, version in record.origin.versions.items())
    return facts("Plan and repetition", [*rows, ("versions", versions)])


def words_table() -> ReportTable:
    """Return the words of the page with what they mean, folded away."""
    rows = tuple((TableCell(word, head=True), TableCell(meaning)) for word, meaning in _WORDS)
    return ReportTable("Words of this page", ("word", "meaning"), (), more=rows)


def law_table() -> ReportTable:
    """Return the questions of the law as open questions, with what of an audit bears on them."""
    rows = tuple(
        (TableCell(where, head=True), TableCell(shown), TableCell(question))
        for where, shown, question in _LAW
    )
    columns = ("where", "what this audit shows", "open question")
    return ReportTable("Questions of the law", columns, rows, wide=True)


def _lead(record: AuditRecord, name: str) -> tuple[str, ...]:
    line: VerdictLine = record.line(name)
    return (f"{line.colour.capitalize()}: {line.word}. {line.words}",)


def _cautions(record: AuditRecord) -> tuple[str, ...]:
    """Return what a reader must not overlook."""
    found = [f"A part refutes the guarantee: {part.name}." for part in record.parts if part.refuted]
    found += [f"A condition of the plan is met: {text}." for text in record.conditions]
    if record.plan.after_results:
        found.append(record.plan.words())
    if record.deterministic:
        found.append(
            "The audit took its randomness from a seed. It is a repetition, not evidence for a release."
        )
    return tuple(found)
