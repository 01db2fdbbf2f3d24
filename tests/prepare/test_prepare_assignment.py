from __future__ import annotations

from collections import Counter

import pytest

from meninx.core.errors import DataError
from meninx.prepare import assignment, checks
from meninx.prepare.readers import values

PATIENTS = [f"p{number}" for number in range(4000)]


def test_stable_fractions_hold_on_average():
    counts = Counter(assignment.stable_splits(PATIENTS, (0.7, 0.1, 0.2), 0).values())
    for name, share in zip(("train", "valid", "test"), (0.7, 0.1, 0.2), strict=True):
        assert abs(counts[name] - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5


def test_seeds_and_purposes_are_independent():
    first, second = (assignment.stable_splits(PATIENTS, (0.5, 0.0, 0.5), seed) for seed in (0, 1))
    assert 0.45 < sum(first[p] == second[p] for p in PATIENTS) / 4000 < 0.55
    train = [p for p in PATIENTS if first[p] == "train"]
    homes = Counter(assignment.iid_sites(train, ("a", "b"), (), 0).values())
    assert abs(homes["a"] - homes["b"]) <= 1


def test_a_share_of_nothing_gets_nobody():
    assert set(assignment.stable_splits(PATIENTS, (0.8, 0.2, 0.0), 0).values()) == {"train", "valid"}
    assert set(assignment.exact_splits(dict.fromkeys(PATIENTS, "x"), (0.8, 0.0, 0.2), 0).values()) == {
        "train",
        "test",
    }


def test_exact_balances_labels():
    strata = {p: "ill" if number % 10 == 0 else "well" for number, p in enumerate(PATIENTS[:500])}
    found = assignment.exact_splits(strata, (0.6, 0.2, 0.2), 0)
    ill = Counter(found[p] for p in strata if strata[p] == "ill")
    assert ill == {"train": 30, "valid": 10, "test": 10}


def test_published_refuses_a_patient_in_two_parts_by_row():
    given = {"p1": {"train": "t.csv, row 2", "test": "t.csv, row 9"}}
    with pytest.raises(DataError, match=r"test \(t.csv, row 9\) and train \(t.csv, row 2\)"):
        assignment.published_splits(given, (0.7, 0.1, 0.2), 0)


def test_label_skew_grows_as_alpha_falls():
    strata = {p: "ill" if number % 2 else "well" for number, p in enumerate(PATIENTS[:1000])}

    def unevenness(alpha: float) -> float:
        shares = []
        for seed in range(10):
            homes = assignment.skewed_sites(strata, ("a", "b", "c"), (), alpha, seed)
            ill = [sum(homes[p] == site and strata[p] == "ill" for p in strata) / 500 for site in "abc"]
            shares.append(max(ill) - min(ill))
        return sum(shares) / len(shares)

    assert unevenness(0.1) > 0.6
    assert unevenness(1000.0) < 0.1


def test_no_site_stays_empty():
    homes = assignment.skewed_sites(dict.fromkeys(PATIENTS[:5], "x"), tuple("abcde"), (), 0.01, 0)
    assert set(homes.values()) == set("abcde")
    with pytest.raises(DataError, match="3 patients or more, got 2"):
        assignment.skewed_sites(dict.fromkeys(PATIENTS[:2], "x"), tuple("abc"), (), 1.0, 0)


def test_by_column_takes_the_most_frequent_value():
    assert assignment.column_sites({"p": Counter({"a": 1, "b": 2}), "q": Counter({"b": 1, "a": 1})}) == {
        "p": "b",
        "q": "a",
    }
    with pytest.raises(DataError, match="without a site: 1"):
        assignment.column_sites({"p": Counter({"a": 1}), "q": Counter()})


def test_findings_list_at_most_a_few_rows_but_count_all():
    findings = checks.Findings()
    for number in range(50):
        findings.add("missing file", f"row {number}")
    assert findings.to_table()["missing file"]["count"] == 50
    assert len(findings.to_table()["missing file"]["rows"]) == checks.ROWS_LISTED


@pytest.mark.parametrize(
    ("text", "years"),
    [("057Y", "57"), ("57", "57"), ("57.0", "57"), ("011M", "0"), ("", ""), ("x", ""), ("300", "")],
)
def test_ages_are_whole_years(text, years):
    assert values.age(text) == years
