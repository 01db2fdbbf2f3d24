"""`--fail-if`: a grammar of three words, unknown keys, and findings without a number."""

from __future__ import annotations

import pytest
from audit_samples import audited, membership_audit, one_run_record, record_of
from hypothesis import given
from hypothesis import strategies as st
from report_samples import write_run

from meninx.audit import conditions
from meninx.audit.conditions import Condition, parse
from meninx.cli.app import run as command
from meninx.core.errors import AuditFinding, ConfigError, UsageError
from meninx.core.findings import Finding


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
