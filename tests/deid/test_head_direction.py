"""Evidence for the front and the upper end of a head."""

from __future__ import annotations

import numpy as np
import pytest

from meninx.deid.faces import head_direction
from meninx.dicomfile.refusals import Refused

SIDES = np.arange(-60.0, 61.0, 3.0)


def neck():
    """Return the front of a round neck, as of every section."""
    return np.tile(np.sqrt(65.0**2 - SIDES**2), (20, 1))


def test_a_nose_is_a_ridge_and_a_neck_is_none():
    nose = neck()
    nose[8:14, np.abs(SIDES) < 10] += 20
    assert head_direction.ridge(SIDES, neck(), 1.0, 3.0) < 5
    assert head_direction.ridge(SIDES, nose, 1.0, 3.0) > 20


def test_noise_in_one_section_counts_a_third():
    spiked = neck()
    spiked[8, np.abs(SIDES) < 10] += 20
    assert head_direction.ridge(SIDES, spiked, 1.0, 3.0) < 12


@pytest.mark.parametrize(("front", "back"), [(4.0, 25.0), (25.0, 25.0), (9.0, 1.0)])
def test_a_nose_behind_on_both_sides_or_on_none_is_refused(front, back):
    head_direction.check_nose(25.0, 4.0)
    with pytest.raises(Refused, match="face-not-found"):
        head_direction.check_nose(front, back)


@pytest.mark.parametrize(("stretch", "is_covered"), [(0.5, True), (1.7, True), (1.0, False)])
def test_a_vault_of_another_height_or_at_the_end_of_the_scan_is_refused(stretch, is_covered):
    def areas(factor):
        z = np.arange(0.0, 1.0, 3.0 / (96 * factor))
        return np.pi / 4 * 190 * 150 * (1 - z**2)

    def check(factor, covered):
        found = areas(factor)
        head_direction.check_vault(found, len(found) - 1, (190.0, 150.0), covered, 3.0)

    check(1.0, True)
    with pytest.raises(Refused, match="head-doubtful"):
        check(stretch, is_covered)
