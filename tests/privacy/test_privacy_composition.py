"""Several runs on one dataset: their costs add up, and a run given twice or copied is found."""

import math
from dataclasses import replace

import pytest

from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal
from meninx.privacy import accounting
from meninx.privacy.composition import compose, joint_phases
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import Plan

DELTA = 1e-5
PLAN = Plan.build(
    n_units=1000, expected_batch_size=50.0, steps=100, noise_multiplier=1.5, max_grad_norm=1.0, delta=DELTA
)


def ran(steps, stream, plan=PLAN, ledger=None):
    ledger = ledger or Ledger()
    text = ""
    for step in range(steps):
        ledger, line = ledger.next(plan, step, stream=stream)
        text += line
    assert Ledger.parse(text) == ledger
    return ledger


def test_a_sweep_costs_all_of_its_runs():
    sweep = [ran(20, "a"), ran(30, "b"), ran(10, "c", replace(PLAN, noise_multiplier=2.0)), Ledger()]
    spent = compose(sweep, delta=DELTA)
    alone = [ledger.epsilon(DELTA) for ledger in sweep]
    phases = [replace(PLAN.phase(), steps=50), replace(PLAN.phase(), noise_multiplier=2.0, steps=10)]
    assert spent.epsilon == accounting.epsilon(phases, DELTA).value
    assert max(alone) < spent.epsilon < sum(alone)
    assert (spent.steps, spent.noise_multiplier, spent.accountant) == (60, 1.5, "pld, 2 phases")
    assert joint_phases(sweep) == accounting.merge(phases)


def test_two_phases_in_two_folders_cost_what_they_cost_in_one():
    second = replace(PLAN, max_grad_norm=0.3, noise_multiplier=1.1)
    first = ran(15, "one")
    both = first
    for step in range(15, 40):
        both, _ = both.next(second, step, stream="two")
    apart = compose([first, ran(25, "two", second)], delta=DELTA)
    assert apart.epsilon == both.epsilon(DELTA) == compose([both], delta=DELTA).epsilon
    assert apart == both.spent(DELTA)


def test_an_unfinished_line_counts_in_the_sum():
    one, other = ran(20, "a"), ran(20, "b")
    torn = replace(one, pending='{"index":20')
    assert (
        compose([torn, other], delta=DELTA).epsilon
        == accounting.epsilon([replace(PLAN.phase(), steps=41)], DELTA).value
    )
    assert compose([torn, other], delta=DELTA).steps == 41
    assert compose([Ledger(pending='{"in'), other], delta=DELTA).epsilon == math.inf


def test_the_same_keys_twice_are_refused():
    one = ran(20, "a")
    for other in (one, ran(30, "a"), ran(5, "a", replace(PLAN, noise_multiplier=2.0))):
        with pytest.raises(PrivacyRefusal, match="the same secret keys"):
            compose([one, other], delta=DELTA)
    compose([ran(3, ""), ran(3, "")], delta=DELTA)  # without named keys every line counts anyway


def test_other_units_and_nothing_at_all_are_refused():
    with pytest.raises(PrivacyRefusal, match="one privacy unit and relation"):
        compose([ran(3, "a"), ran(3, "b", replace(PLAN, unit=PrivacyUnit.CASE))], delta=DELTA)
    with pytest.raises(DataError, match="privacy ledgers contain no step"):
        compose([Ledger()], delta=DELTA)


CYCLIC = replace(PLAN, noise_bands=4)


def test_a_ledger_of_correlated_noise_accounts_what_the_plan_does():
    for steps in (1, 4, 5, 11):
        ledger = ran(steps, "keys", CYCLIC)
        assert ledger.phases() == (CYCLIC.phase(steps),)
        assert ledger.spent() == CYCLIC.spent(steps)


def test_a_step_again_under_its_keys_is_the_same_round_and_under_others_is_not():
    ledger = ran(8, "keys", CYCLIC)
    for step in (6, 7, 8):
        ledger, _ = ledger.next(CYCLIC, step, stream="keys")
    assert sum(phase.steps for phase in ledger.phases()) == 3  # steps 0 to 8: group 0 had three turns
    for step in (8, 9):
        ledger, _ = ledger.next(CYCLIC, step, stream="other keys")
    assert sum(phase.steps for phase in ledger.phases()) == 4
    unnamed = ran(8, "", CYCLIC)
    assert sum(phase.steps for phase in unnamed.phases()) == 8  # groups may have changed at every line


def test_keys_used_with_other_bands_are_refused():
    ledger = ran(5, "keys", CYCLIC)
    for bands in (1, 2):
        with pytest.raises(PrivacyRefusal, match="one noise_bands under one set of keys"):
            ledger.next(replace(PLAN, noise_bands=bands), 5, stream="keys")
    ledger.next(PLAN, 5, stream="new keys")


def test_a_ledger_of_the_first_format_is_still_read_and_continued():
    """Lines without noise_bands and clipping, as the first release wrote them."""
    lines = (
        '{"index":0,"plan":"PLAN","sample_rate":0.05,"noise_multiplier":1.5,"max_grad_norm":1.0,"unit":"patient",'
        '"relation":"add-or-remove-one","delta":1e-05,"step":0,"stream":"keys","torn":"","previous":"'
        + "0"
        * 32
    ).replace("PLAN", PLAN.fingerprint())
    from meninx.privacy.ledger import digest

    body = lines + '"'
    ledger = Ledger.parse(f'{body},"hash":"{digest(body)}"}}\n')
    assert ledger.phases() == (replace(PLAN.phase(), steps=1),)
    longer, text = ledger.next(PLAN, 1, stream="keys")
    assert longer.spent() == replace(PLAN.spent(2), clipping="")  # the first format does not say
    assert len(longer.accounts) == 1
    assert '"noise_bands":1,"clipping":"flat"' in text


def test_clipping_and_bands_are_written_down():
    entry = ran(1, "keys", replace(PLAN, clipping="adaptive")).accounts[0].first
    assert (entry.clipping, entry.noise_bands) == ("adaptive", 1)
    assert ran(1, "keys", CYCLIC).accounts[0].first.noise_bands == 4
