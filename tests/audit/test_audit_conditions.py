"""`--fail-if`: a grammar of three words, unknown keys, and findings without a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audit_samples import audited, membership_audit, one_run_record, record_of
from hypothesis import given
from hypothesis import strategies as st
from report_samples import write_run

from meninx.audit import conditions
from meninx.audit.conditions import SPELLINGS, ComparedNumber, Condition, parse
from meninx.cli.app import run as command
from meninx.core.errors import AuditFinding, ConfigError, DataError, UsageError
from meninx.core.findings import Finding
from meninx.report import section_audit


def finding(key, value=0.2, colour="green"):
    interval = (
        {"value": value, "low": value, "high": value}
        if value is not None
        else dict.fromkeys(("value", "low", "high"))
    )
    return Finding(
        key=key, line="measured", words="A number.", n=10, null=None, bound=None, colour=colour,
        reason="too few", **interval,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tpr@fpr=0.01 > 0.05", Condition("tpr@fpr=0.01", ">", 0.05)),
        ("membership/rmia/auc>=6e-1", Condition("membership/rmia/auc", ">=", 0.6)),
        ("  p@1 < 50 % ", Condition("p@1", "<", 0.5)),
        ("a/b <= -3", Condition("a/b", "<=", -3.0)),
        ("lower(tpr@fpr=0.01) > 0.05", Condition("tpr@fpr=0.01", ">", 0.05, ComparedNumber.LOWER)),
        ("upper( rmia/auc )>=60%", Condition("rmia/auc", ">=", 0.6, ComparedNumber.UPPER)),
    ],
)
def test_what_a_condition_means(text, wanted):
    assert parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "tpr", "tpr > ", "> 3", "tpr > x", "tpr == 3", "tpr > 3 > 2", "tpr > nan", "tpr > 1e999",
     "__import__('os').system('x') > 1", "tpr > 0.05; rm -rf", "a" * 300 + " > 1", "tpr > 0.05\nx"],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match="fail-if"):
        parse(text)


@given(st.text(max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    try:
        found = parse(text)
    except ConfigError:
        return
    assert found.operator in (">", ">=", "<", "<=")


@pytest.mark.parametrize("form", ["median(tpr) > 1", "Upper(tpr) > 1", "estimate(tpr) > 1", "LOWER(tpr) > 1"])
def test_an_unknown_spelling_is_refused_with_the_list_of_those_there_are(form):
    with pytest.raises(ConfigError) as caught:
        parse(form)
    assert all(spelling in str(caught.value) for spelling in SPELLINGS)


@pytest.mark.parametrize("form", ["upper(tpr", "upper tpr) > 1", "upper() > 1", "upper(lower(tpr)) > 1"])
def test_half_a_spelling_is_refused(form):
    with pytest.raises(ConfigError, match="fail-if"):
        parse(form)


def measured(key, value, low, high):
    return Finding(
        key=key, line="measured", words="A number.", n=120, null=None, bound=None, colour="amber",
        reason="", value=value, low=low, high=high,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("tpr > 0.15", None),
        ("tpr > 0.13", "the estimate 0.14 was compared"),
        ("lower(tpr) > 0.13", None),
        ("lower(tpr) > 0.11", "the lower end 0.12 was compared"),
        ("upper(tpr) > 0.15", "the upper end 0.16 was compared"),
        ("upper(tpr) > 0.17", None),
        ("upper(tpr) < 0.17", "the upper end 0.16 was compared"),
    ],
)
def test_a_condition_says_which_number_it_compared_and_prints_the_interval(text, which):
    met = conditions.met([parse(text)], [measured("m/a/tpr", 0.14, 0.12, 0.16)], {})
    assert len(met) == (which is not None)
    for sentence in met:
        assert sentence == f"{text}: m/a/tpr is 0.14 (0.12 to 0.16), n = 120 patients; {which}"


def test_the_upper_end_of_a_number_without_an_interval_is_refused_by_name():
    known = [measured("m/a/limit", 0.2, 0.2, None), finding("m/b/exact", 0.2)]
    exact = Finding(**{**vars(known[1]), "n": 0})
    for text, key in (("upper(limit) > 1", "m/a/limit"), ("lower(exact) > 1", "m/b/exact")):
        with pytest.raises(UsageError, match=f"{key} is .*no interval.*write "):
            conditions.refuse_unknown([parse(text)], [known[0], exact], {})
    conditions.refuse_unknown([parse("lower(limit) > 1"), parse("exact > 1")], [known[0], exact], {})
    assert "has no upper end" in conditions.met([parse("upper(limit) > 1")], known, {})[0]


def test_an_end_of_an_interval_that_no_run_has_is_refused_before_anything_is_written(tmp_path, capsys):
    folder = write_run(tmp_path / "run", private=True)
    for text in ("upper(epsilon) > 8", "lower(largest-tpr@fpr=0.01) > 1", "upper(epsilon-lower-limit) > 1"):
        assert command(["audit", str(folder), "-q", "--fail-if", text]) == 2
        assert "no interval" in capsys.readouterr().err
        assert not (folder / "audit").exists()


def test_limits_of_the_plan_are_compared_and_stand_on_the_page(tmp_path):
    folder = write_run(tmp_path / "run", private=True, noise=3.0)
    run = record_of(folder)
    given = {"one_run": one_run_record(run), "membership": membership_audit(run)}
    plan = {"fail_conditions": ["upper(mu) > 1.8", "lower(mu) > 1.8"]}
    result = audited(folder, **given, plan=plan)
    assert result.record.conditions == (
        "upper(mu) > 1.8: one-run/mu is 1.7 (1.55 to 1.84), n = 1,000 canaries; the upper end 1.841 was "
        "compared",
    )
    rows = [str(cell) for row in section_audit.plan_table(result.record).rows for cell in row]
    assert any("the upper end 1.841 was compared" in row for row in rows)


def test_a_key_is_named_by_its_end_from_a_slash_on():
    condition = parse("auc > 0.1")
    assert condition.names("membership/rmia/auc")
    assert not condition.names("bounds/largest-auc")
    assert not condition.names("membership/auc/low")


def test_a_number_that_is_missing_or_void_does_not_pass():
    known = [finding("m/a/tpr", 0.01), finding("m/b/tpr", None, "grey"), finding("m/c/tpr", 0.01, "grey")]
    met = conditions.met([parse("tpr > 0.05")], known, {"m/d/tpr": "left out"})
    assert [text.split(": ")[1].split(" has")[0] for text in met] == ["m/b/tpr", "m/c/tpr", "m/d/tpr"]
    assert conditions.met([parse("m/a/tpr > 0.05")], known, {}) == ()
    assert len(conditions.met([parse("m/a/tpr < 0.05")], known, {})) == 1


def test_an_unknown_key_is_refused_with_the_list_of_keys():
    with pytest.raises(UsageError, match=r"no finding is called tpr .*m/a/auc, m/d/auc"):
        conditions.refuse_unknown([parse("tpr > 1")], [finding("m/a/auc")], {"m/d/auc": "left out"})


def test_conditions_of_an_audit_end_with_exit_code_5(tmp_path):
    folder = write_run(tmp_path / "run", private=True, noise=3.0)
    run = record_of(folder)
    given = {"one_run": one_run_record(run), "membership": membership_audit(run)}
    audited(folder, **given, fail_if=("rmia/tpr@fpr=0.01 > 0.05",)).raise_if_failed()
    result = audited(folder, **given, fail_if=("tpr@fpr=0.01 > 0.01", "mu < 1"))
    assert len(result.met) == 3
    assert result.record.conditions == ()
    with pytest.raises(AuditFinding, match="2 more above"):
        result.raise_if_failed()
    with pytest.raises(UsageError, match="no finding is called rank1@n=10"):
        audited(folder, **given, fail_if=("rank1@n=10 > 0.2",))


def test_a_part_that_was_not_done_counts_as_a_failure_to_show(tmp_path, capsys):
    folder = write_run(tmp_path / "run", private=False)
    words = ["audit", str(folder), "--parts", "bounds", "-q", "--fail-if", "largest-tpr@fpr=0.01 > 0.05"]
    assert command(words) == 5
    assert "has no number (the run was trained without differential privacy" in capsys.readouterr().err
    assert command(["audit", str(folder), "--parts", "bounds", "-q", "--fail-if", "luck > 1"]) == 2
    assert command(["audit", str(folder), "--parts", "bounds", "-q", "--fail-if", "luck"]) == 2


def test_a_name_with_an_equals_sign_is_no_group():
    void = finding("attributes/hiv=1/embedding/advantage", value=None, colour="grey")
    assert void.group == ""
    assert conditions.met([parse("advantage > 0.1")], [void], {})
    with pytest.raises(DataError, match="the group is no part of the key"):
        replace(void, group="sex=f")


@pytest.mark.parametrize(
    ("reason", "text", "is_met"),
    [
        ("above chance", "auc > 0.9", False),
        ("above chance", "auc > 0.5", True),
        ("a control failed: the splits differ", "auc > 0.9", True),
    ],
)
def test_the_number_of_a_group_is_compared_though_it_is_grey(reason, text, is_met):
    found = finding("membership/rmia/sex=f/auc", value=0.6, colour="grey")
    found = replace(found, group="sex=f", reason=reason)
    assert bool(conditions.met([parse(text)], [found], {})) == is_met
    alone = replace(found, group="")
    assert conditions.met([parse(text)], [alone], {})
