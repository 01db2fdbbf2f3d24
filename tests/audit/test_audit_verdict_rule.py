"""One rule for all parts: a failed control takes the good news, and never hides that a bound is exceeded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audit_samples import attack, membership_audit, one_run_record, record_of
from hypothesis import given
from hypothesis import strategies as st
from part_samples import attribute, attributes_audit, identity_audit, link, reconstruction_audit
from report_samples import write_run

from meninx.audit import membership_findings, record_consistency, verdict_lines
from meninx.audit.part_rules import RULES, findings_of
from meninx.audit.plan_config import AuditPlan, PlannedLimits
from meninx.audit.verdict_lines import Reservations
from meninx.core.audit_records import MechanismCheck
from meninx.core.audit_summary import DONE, AuditedPart
from meninx.core.findings import LONGEST_TEXT
from meninx.metrics import verdict_rule

TEXT = st.sampled_from(["", "why"])


@given(st.booleans(), TEXT, st.sampled_from(["", "exposed"]), TEXT)
def test_the_rule(refuted, failed, found, weak):
    verdict, reason = verdict_rule.verdict_of(refuted=refuted, failed=failed, found=found, weak=weak)
    assert (verdict == "refuted") == refuted
    assert bool(reason) == bool(failed or weak)
    assert verdict != "nothing found" or not (failed or weak)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record_of(write_run(tmp_path_factory.mktemp("runs") / "run", private=True, noise=3.0))


def judged(record):
    """Return a membership audit with the verdict of its numbers."""
    controls = (record.negative, record.split_control)
    verdict, reason = membership_findings.verdict_of(
        record.attacks, record.positive, controls, record.significance
    )
    return replace(record, verdict=verdict, reason=reason)


BROKEN = {
    "a negative control finds something": {"negative": attack("rmia", 0.7, 0.001)},
    "the split control finds something": {"split_control": attack("rmia", 0.3, 1.0)},
    "the planted leak is not found": {"positive": attack("rmia", 0.5, 0.5)},
}


def parts_with(run, exceeds):
    """Yield name of a part -> records of it with one control broken, by which control."""
    for why, changes in BROKEN.items():
        record = membership_audit(run, "refuted" if exceeds else "nothing found")
        yield "membership", why, judged(replace(record, **changes))
    for why, changes in {
        "a coin is inferred": {"negative": (attribute("coin", p=0.001, advantage_p=0.001),)},
        "an untrained network knows members": {"fresh": (attribute("sex", advantage_p=0.001),)},
        "a planted coin is not found": {"positive": (attribute("planted coin"),)},
    }.items():
        yield "attributes", why, attributes_audit(run, exceeds=exceeds, **changes)
    for why, changes in {
        "a stranger is picked": {"stranger": 0.3},
        "the threshold is too low": {"control": 0.4},
        "no attack works": {"works": False},
    }.items():
        yield "reconstruction", why, reconstruction_audit(run, exceeds=exceeds, **changes)
    if not exceeds:
        for why, changes in {
            "shuffled identities are linked": {"negative": (link(p=0.001),)},
            "a mark is not found": {"positive": (link(p=0.5),)},
        }.items():
            yield "identity", why, identity_audit(run, **changes)


def audited_part(name, record):
    found = findings_of(name, record, AuditPlan(), Reservations())
    rules = RULES[name]
    return AuditedPart(
        name=name, state=DONE, sha256="0", findings=found, refuted=rules.refuted(record),
        void=rules.void(record),
    )  # fmt: skip


def test_no_part_with_a_failed_control_is_green(run):
    seen = set()
    for name, why, record in parts_with(run, exceeds=False):
        seen.add(name)
        part = audited_part(name, record)
        numbers = [item for item in part.findings if "control" not in item.key]
        assert numbers, (name, why)
        assert "green" not in {item.colour for item in numbers}, (name, why)
        assert part.void == record.reason != "", (name, why)
        assert not list(RULES[name].contradictions(record)), (name, why)
        line = verdict_lines.lines([part], PlannedLimits(), Reservations())[1]
        assert line.colour == "grey", (name, why)
        assert record.reason in line.words
    assert seen == {"membership", "attributes", "reconstruction", "identity"}


def test_a_failed_control_hides_no_attack_above_its_bound(run):
    seen = set()
    for name, why, record in parts_with(run, exceeds=True):
        seen.add(name)
        part = audited_part(name, record)
        assert (record.verdict, part.refuted) == ("refuted", True), (name, why)
        red = [item for item in part.findings if item.colour == "red"]
        assert red, (name, why)
        assert any("but a control failed" in item.reason for item in red), (name, why)
        assert "green" not in {item.colour for item in part.findings if "control" not in item.key}, (
            name,
            why,
        )
        line = verdict_lines.lines([part], PlannedLimits(), Reservations())[1]
        assert (line.colour, line.word) == ("red", "attack succeeded")
        assert line.words.count(f"a control failed: {record.reason}") == 1
    assert seen == {"membership", "attributes", "reconstruction"}


def test_the_audit_of_the_implementation_is_not_green_where_its_control_was_not_noticed(run):
    check = MechanismCheck(
        noise=1.0, noise_low=0.9, noise_high=1.1, length=1.0, length_low=0.9, length_high=1.1, samples=500,
        significance=0.01,
    )  # fmt: skip
    weak = replace(one_run_record(run, caught=False), mechanism=check)
    part = audited_part("one-run", weak)
    assert {item.colour for item in part.findings} == {"grey"}
    assert "too weak" in part.void
    broken = replace(
        weak, mechanism=replace(check, noise=0.5, noise_low=0.4, noise_high=0.6, refuted_by=("noise",))
    )
    part = audited_part("one-run", broken)
    assert part.refuted
    assert next(item for item in part.findings if item.key == "one-run/noise").colour == "red"
    assert "green" not in {item.colour for item in part.findings}


def measured_line(part):
    return verdict_lines.lines([part], PlannedLimits(), Reservations())[1]


def test_an_attack_beyond_chance_by_itself_is_not_called_chance(run):
    """Three attacks share 5 %, so p 0.02 is no find, and its interval excludes guessing all the same."""
    plain = membership_audit(run)
    key = "membership/lira/auc"
    for auc, p_value, low in ((0.686, 0.02, 0.527), (0.55, 0.06, 0.51), (0.55, 0.04, 0.49)):
        weak = replace(
            plain.attacks[1], auc=auc, auc_low=low, auc_high=0.843, null_high=0.677, p_value=p_value
        )
        record = judged(replace(plain, attacks=(plain.attacks[0], weak, plain.attacks[2])))
        assert (record.verdict, record.reason) == ("nothing found", "")
        part = audited_part("membership", record)
        found = next(item for item in part.findings if item.key == key)
        assert (found.colour, found.reason) == (
            "grey",
            f"not beyond chance at the level that 3 attacks share (p {p_value:g}, at most 0.0167 needed); "
            "guessing gives an area of 0.5, the null reaches 0.677",
        )
        line = measured_line(part)
        assert (line.colour, line.word) == ("amber", "nothing found, weak test")
        assert f"{key}: {found.reason}" in line.words
        assert "beyond chance by itself" in line.rule
    found = next(item for item in audited_part("membership", plain).findings if item.key == key)
    assert (found.colour, found.reason) == (
        "green",
        "the attack is no better than chance; another attack may be",
    )


@pytest.mark.parametrize(
    ("changes", "number", "guess"),
    [
        ({"p": 0.03}, "auroc", "guessing gives an area of 0.5"),
        ({"advantage_p": 0.03}, "advantage", "guessing gives an advantage of 0"),
    ],
)
def test_an_attribute_beyond_chance_by_itself_is_not_called_chance(run, changes, number, guess):
    plain = attributes_audit(run)
    other = replace(attribute("sex"), signal="logits")
    record = replace(plain, attributes=(attribute("sex", **changes), other))
    part = audited_part("attributes", record)
    by_key = {item.key: item for item in part.findings}
    found = by_key[f"attributes/sex/embedding/{number}"]
    assert found.colour == "grey"
    shared = "not beyond chance at the level that 2 attacks share (p 0.03, at most 0.025 needed); "
    assert found.reason.startswith(f"{shared}{guess}")
    assert by_key[f"attributes/sex/logits/{number}"].colour == "green"
    line = measured_line(part)
    assert (line.colour, line.word) == ("amber", "nothing found, weak test")
    assert found.reason in line.words


def test_an_interval_contains_its_area(run):
    plain = membership_audit(run)
    assert not list(record_consistency.of_membership(plain))
    first, *others = plain.groups
    beside = replace(plain, groups=(replace(first, auc_high=first.auc - 0.01), *others))
    assert list(record_consistency.of_membership(beside)) == [
        f"group {first.group}: its interval does not contain its area"
    ]


def test_a_line_never_outgrows_its_limit(run):
    """Every part says why a control failed, and all reasons together are too long for one line."""
    every = [
        replace(audited_part(name, record), name=name, void="a reason of many words " * 20)
        for name, _, record in parts_with(run, exceeds=False)
    ]
    first = list({part.name: part for part in every}.values())
    held = Reservations(caps=("a reservation of many words " * 10,))
    for line in verdict_lines.lines(first, PlannedLimits(), held):
        assert 0 < len(line.words) <= LONGEST_TEXT


def few(run, excess, above=()):
    """Return an audit of attacks on 60 members and 60 others that tell them apart."""
    record = membership_audit(run, "exposed")
    attacks = tuple(
        replace(one, members=60, others=60, points=(), auc=0.999, auc_high=1.0, excess=excess, above=above)
        for one in record.attacks
    )
    return replace(record, attacks=attacks, bound_auc=0.737)


@pytest.mark.parametrize("excess", [None, False])
def test_what_too_few_patients_cannot_test_is_not_called_within_the_guarantee(run, excess):
    found = membership_findings.findings(few(run, excess))[0]
    assert found.colour == "amber"
    assert "cannot be tested with 60 members and 60 non-members" in found.reason
    assert "within the guarantee" not in found.reason


def test_numbers_above_the_guarantee_are_not_called_within_it(run):
    found = membership_findings.findings(few(run, False, (10, 20, 30, 40)))[0]
    assert found.reason.endswith("more than the guarantee allows, but no more than chance explains")


def test_counts_that_contradict_the_area_or_the_rates_are_found(run):
    record = few(run, False, (0, 0, 1, 2))
    assert any("its counts contradict" in words for words in record_consistency.of_membership(record))
    whole = few(run, False, (58, 60, 60, 60))
    words = list(record_consistency.of_membership(whole))
    assert not any("its counts contradict" in one for one in words)
