"""The ledger: what was run is spent, over crashes, resumes and changes of plan.

A changed ledger is refused.
"""

import math
from dataclasses import replace

import pytest

from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal
from meninx.privacy import accounting
from meninx.privacy.ledger import Ledger, digest
from meninx.privacy.plan import Plan

DELTA = 1e-5
PLAN = Plan.build(
    n_units=1000,
    expected_batch_size=50.0,
    steps=100,
    noise_multiplier=1.1,
    max_grad_norm=1.0,
    delta=DELTA,
    unit=PrivacyUnit.CASE,
)
SECOND = replace(PLAN, noise_multiplier=0.9)


def run(steps, *, plan=PLAN, text="", stream="keys"):
    """Return the ledger's text after some more steps, written as a run does: one line before each step."""
    ledger = Ledger.parse(text)
    for step in steps:
        ledger, line = ledger.next(plan, step, stream=stream)
        text += line
    assert Ledger.parse(text) == ledger
    return text


def phase(steps, plan=PLAN):
    return replace(plan.phase(), steps=steps)


def test_every_step_is_spent():
    ledger = Ledger.parse(run(range(20)))
    assert ledger.phases() == (phase(20),)
    assert ledger.epsilon(DELTA) == PLAN.epsilon(20)
    assert ledger.spent() == PLAN.spent(20)
    assert (ledger.entries, ledger.next_step) == (20, 20)


def test_nothing_entered_is_nothing_spent():
    assert Ledger.parse("") == Ledger()
    assert Ledger().epsilon(DELTA) == 0
    with pytest.raises(DataError, match="no entry"):
        Ledger().spent()


def test_a_resumed_run_under_its_keys_spends_what_an_uninterrupted_one_does():
    text = run(range(5, 20), text=run(range(12)))  # killed after step 11, resumed from a checkpoint at 5
    assert Ledger.parse(text).epsilon(DELTA) == PLAN.epsilon(20)
    assert Ledger.parse(text).entries == 27


@pytest.mark.parametrize("stream", ["", "other keys"])
def test_steps_repeated_without_the_same_keys_count_again(stream):
    text = run(range(5, 20), text=run(range(12), stream="" if not stream else "keys"), stream=stream)
    assert Ledger.parse(text).phases() == (phase(27),)


def test_phases_of_several_plans_compose():
    text = run(range(10, 20), plan=SECOND, text=run(range(10)))
    ledger = Ledger.parse(text)
    both = accounting.epsilon([phase(10), phase(10, SECOND)], DELTA).value
    assert ledger.epsilon(DELTA) == both > max(PLAN.epsilon(10), SECOND.epsilon(10))
    spent = ledger.spent()
    assert (spent.epsilon, spent.steps, spent.noise_multiplier, spent.accountant) == (
        both,
        20,
        0.9,
        "pld, 2 phases",
    )


def test_a_line_cut_anywhere_never_lowers_epsilon_and_the_run_goes_on():
    text = run(range(6))
    start = text.rstrip("\n").rindex("\n") + 1
    for cut in [*range(start + 1, len(text), 29), len(text) - 2, len(text) - 1]:
        torn = Ledger.parse(text[:cut])
        assert torn.epsilon(DELTA) >= PLAN.epsilon(6), cut
        longer, line = torn.next(PLAN, 5 if torn.entries == 5 else 6, stream="keys")
        whole = Ledger.parse(text[:cut] + line)
        assert whole == longer
        assert whole.epsilon(DELTA) >= PLAN.epsilon(7)
        assert whole.pending == ""


def test_a_run_cut_twice_and_in_its_first_line():
    line = run([0])
    torn = Ledger.parse(line[:50])
    assert torn.epsilon(DELTA) == math.inf  # a step of an unknown plan
    _, again = torn.next(PLAN, 0, stream="keys")
    text = line[:50] + again[:-30]
    ledger, last = Ledger.parse(text).next(PLAN, 0, stream="keys")
    assert Ledger.parse(text + last) == ledger
    assert ledger.phases() == (phase(3),)
    stopped = Ledger.parse(line[:50] + "\n")  # killed right after the newline
    longer, last = stopped.next(PLAN, 0, stream="keys")
    assert Ledger.parse(line[:50] + "\n" + last) == longer


def edit(text, number, change):
    lines = text.splitlines()
    lines[number] = change(lines[number])
    return "\n".join(lines) + "\n"


TAMPERED = {
    "sigma edited": lambda text: edit(
        text, 4, lambda line: line.replace('"noise_multiplier":1.1', '"noise_multiplier":1.9')
    ),
    "sigma of the last line edited": lambda text: edit(text, -1, lambda line: line.replace("1.1", "1.9")),
    "rate edited": lambda text: edit(
        text, 0, lambda line: line.replace('"sample_rate":0.05', '"sample_rate":0.01')
    ),
    "step edited": lambda text: edit(text, 5, lambda line: line.replace('"step":5', '"step":4')),
    "line dropped": lambda text: "\n".join(text.splitlines()[:3] + text.splitlines()[4:]) + "\n",
    "first line dropped": lambda text: "\n".join(text.splitlines()[1:]) + "\n",
    "lines swapped": lambda text: (
        "\n".join([*text.splitlines()[:3], text.splitlines()[4], text.splitlines()[3]]) + "\n"
    ),
    "line repeated": lambda text: text + text.splitlines()[-1] + "\n",
    "line cut in the middle": lambda text: edit(text, 4, lambda line: line[:40]),
    "line blanked": lambda text: edit(text, 4, lambda line: ""),
    "field added": lambda text: edit(text, 4, lambda line: line.replace('"step"', '"note":1,"step"')),
    "foreign ledger appended": lambda text: text + run(range(3), plan=SECOND),
    "newer lines cut out": lambda text: (
        "".join(line + "\n" for line in text.splitlines()[:4]) + run(range(6)).splitlines()[5] + "\n"
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_changed_ledger_is_refused(name):
    text = run(range(10))
    assert TAMPERED[name](text) != text
    with pytest.raises(PrivacyRefusal, match="ledger, line"):
        Ledger.parse(TAMPERED[name](text))


def test_a_shortened_or_replaced_ledger_is_found_by_the_checkpoint():
    text = run(range(10))
    anchor = Ledger.parse(run(range(6))).anchor
    assert Ledger.parse(text, anchor=anchor).entries == 10
    short = "\n".join(text.splitlines()[:5]) + "\n"
    for other in (short, run(range(10), plan=SECOND), ""):
        with pytest.raises(PrivacyRefusal, match="the entry that the checkpoint names"):
            Ledger.parse(other, anchor=anchor)
    with pytest.raises(PrivacyRefusal, match="a ledger of 6 steps or more"):
        Ledger.parse(short).verify(steps=6)
    Ledger.parse(short).verify(steps=5, plan=PLAN)


def test_a_foreign_plan_is_refused_where_one_plan_is_asked_for():
    ledger = Ledger.parse(run(range(3)))
    ledger.verify(plan=replace(PLAN, steps=500))
    with pytest.raises(PrivacyRefusal, match="entries of another plan"):
        ledger.verify(plan=SECOND)


def test_steps_ahead_of_ledger_or_plan_and_mixed_units_are_refused():
    ledger = Ledger.parse(run(range(3)))
    with pytest.raises(PrivacyRefusal, match="a step from 0 to 3"):
        ledger.next(PLAN, 4)
    with pytest.raises(PrivacyRefusal, match=r"step < plan\.steps"):
        ledger.next(replace(PLAN, steps=3), 3)
    with pytest.raises(PrivacyRefusal, match="privacy unit and relation"):
        ledger.next(replace(PLAN, unit=PrivacyUnit.PATIENT), 3)


def test_the_ledger_holds_no_secret_and_many_steps_are_one_phase():
    text = run(range(100), plan=PLAN)
    ledger = Ledger.parse(text)
    assert ledger.accounts[0].spans == ((0, 100),)
    assert len(text.splitlines()) == 100


# what a step is bound to


def bound(steps, *, text="", stream="keys", binding="aa", plan=PLAN):
    ledger = Ledger.parse(text)
    for step in steps:
        ledger, line = ledger.next(plan, step, stream=stream, binding=binding)
        text += line
    assert Ledger.parse(text) == ledger
    return text


def test_a_step_may_be_replayed_when_everything_that_determines_it_is_the_same():
    text = bound(range(5, 20), text=bound(range(12)))
    assert Ledger.parse(text).phases() == (phase(20),)


@pytest.mark.parametrize("start", [0, 7, 12])
def test_the_same_keys_for_something_else_are_refused(start):
    ledger = Ledger.parse(bound(range(12)))
    with pytest.raises(PrivacyRefusal, match="start a new run"):
        ledger.next(PLAN, start, stream="keys", binding="bb")
    with pytest.raises(PrivacyRefusal, match="start a new run"):
        ledger.next(SECOND, start, stream="keys", binding="bb")
    longer, _ = ledger.next(PLAN, 0, stream="other keys", binding="bb")
    assert longer.phases() == (phase(13),)


def test_a_step_under_another_plan_and_the_same_keys_is_refused():
    ledger = Ledger.parse(run(range(12)))
    with pytest.raises(PrivacyRefusal, match="one plan for each step"):
        ledger.next(SECOND, 11, stream="keys")
    assert set(ledger.next(SECOND, 12, stream="keys")[0].phases()) == {phase(12), phase(1, SECOND)}
    other, _ = ledger.next(SECOND, 11, stream="other keys")
    assert set(other.phases()) == {phase(12), phase(1, SECOND)}


def test_the_ending_is_that_of_the_text():
    whole = run(range(3))
    for cut in range(0, len(whole) + 1):
        text = whole[:cut]
        assert text.endswith(Ledger.parse(text).ending)
        assert bool(Ledger.parse(text).ending) == bool(text)


def test_a_ledger_without_bindings_is_read_and_not_gone_on_with():
    text = run(range(12)).replace(',"binding":""', "")
    old = []
    for line in text.splitlines():  # as an earlier version wrote and sealed them
        body = line[: line.rindex(',"hash":"')]
        if old:
            body = body.replace(body.split('"previous":"')[1][:32], old[-1][-34:-2])
        old.append(f'{body},"hash":"{digest(body)}"}}')
    ledger = Ledger.parse("\n".join(old) + "\n")
    assert ledger.epsilon(DELTA) == PLAN.epsilon(12)
    with pytest.raises(PrivacyRefusal, match="cannot be resumed"):
        ledger.next(PLAN, 12, stream="keys", binding="aa")
    with pytest.raises(PrivacyRefusal, match="cannot be resumed"):
        ledger.refuse_other_binding("keys", "aa")


def test_a_line_with_another_binding_makes_a_ledger_that_is_refused():
    text, other = bound(range(3)), bound(range(4), binding="bb")
    with pytest.raises(PrivacyRefusal):
        Ledger.parse(text + other.splitlines(keepends=True)[3])


def test_another_binding_under_the_same_keys_is_refused_in_a_ledger_that_is_sealed_well():
    *lines, last = bound(range(4)).splitlines()
    body = last[: last.rindex(',"hash":"')]
    for binding, good in (("aa", True), ("bb", False)):
        changed = body.replace('"binding":"aa"', f'"binding":"{binding}"')
        text = "\n".join([*lines, f'{changed},"hash":"{digest(changed)}"}}']) + "\n"
        if good:
            assert Ledger.parse(text).entries == 4
        else:
            with pytest.raises(PrivacyRefusal, match="one binding under one set of keys"):
                Ledger.parse(text)
