from __future__ import annotations

from datetime import date

import pytest

from meninx.deid import dates


@pytest.mark.parametrize(
    ("old", "days", "new"),
    [
        ("20190314", -400, "20180207"),
        ("2019.03.14", -1, "20190313"),
        (" 20190314 ", 0, "20190314"),
        ("20190301-20190314", -1, "20190228-20190313"),
        ("20190301-", -1, "20190228-"),
        ("-20190301", -1, "-20190228"),
        *[
            (bad, -1, "")
            for bad in ("20190230", "2019", "Marigold", "", "00000101", "2019031", "-", "20190301-Marigold")
        ],
        ("00010101", -365, ""),
    ],
)
def test_a_date_moves_and_what_is_none_goes(old, days, new):
    assert dates.shift_da(old, days) == new


@pytest.mark.parametrize(
    ("old", "days", "new"),
    [
        ("20190314101500.123456+0130", -14, "20190228101500.123456+0130"),
        ("20190314", -14, "20190228"),
        ("201903", -365, "201803"),
        ("2019", -3650, "2009"),
        ("2019-0500", -365, "2018-0500"),
        ("20190314101500-20190315101500", -1, "20190313101500-20190314101500"),
        *[
            (bad, -1, "")
            for bad in (
                "20191314",
                "201903149900",
                "20190314Marigold",
                "2019031410 Marigold",
                "20190314101500.1234567",
            )
        ],
    ],
)
def test_a_date_time_keeps_its_time_zone_and_precision(old, days, new):
    assert dates.shift_dt(old, days) == new


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("101500.25", True),
        ("10", True),
        ("10:15:00", True),
        ("1000-1100", True),
        ("2515", False),
        ("Ann", False),
        ("", False),
    ],
)
def test_times_of_day(value, fits):
    assert dates.is_tm(value) is fits


@pytest.mark.parametrize(
    ("age", "new"),
    [
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("099Y", "090Y"),
        ("81", "081Y"),
        ("1200", ""),
        ("999M", "999M"),
        ("old", ""),
        ("", ""),
    ],
)
def test_ages_are_capped(age, new):
    assert dates.capped_age(age, 89) == new


@pytest.mark.parametrize(
    ("birth", "then", "age"),
    [
        ((1961, 5, 2), (2019, 3, 14), "057Y"),
        ((2019, 1, 14), (2019, 3, 14), "002M"),
        ((2019, 3, 1), (2019, 3, 14), "013D"),
        ((2020, 1, 1), (2019, 1, 1), ""),
    ],
)
def test_the_age_is_taken_from_original_dates(birth, then, age):
    assert dates.age_between(date(*birth), date(*then)) == age
