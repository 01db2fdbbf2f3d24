"""Every setting of a Deidentifier has its effect, here and in a process that the object is sent to."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
from deid_samples import KEY, key_file

from meninx.deid.deidentifier import Deidentifier
from meninx.deid.review import layouts
from meninx.deid.review.layouts import LayoutDecision, LayoutMask, ReviewChoice
from meninx.imaging.ocr import Box

BOXES = (Box(4, 4, 24, 10),)
VALUES = {
    "site": "south",
    "profile": "basic",
    "options": ("retain-device",),
    "overrides": {"SliceThickness": "X"},
    "missing_lookup": "quarantine",
    "issuers": "separate",
    "missing_issuer": "quarantine",
    "max_age": 80,
    "pixels": "keep",
    "search_all": True,
    "keep_measurements": True,
    "defacing": "head",
}
FILES = ("key", "lookup", "issuer_domains", "registry", "decisions")
NEEDS = {"missing_lookup": "lookup"}  # it has no effect without


def file_of(tmp: Path, name: str) -> Path:
    if name == "key":
        (tmp / "other").mkdir()
        return key_file(tmp / "other", KEY[::-1])
    place = tmp / name
    if name == "lookup":
        place.write_text("old_patient_id,new_patient_id\n1,STUDY-1\n")
    elif name == "issuer_domains":
        place.write_text('east = ["EAST"]\n')
    elif name == "decisions":
        mask = LayoutMask("CardioCo", "Sono 1", 48, 64, BOXES)
        layouts.write_decisions(place, [LayoutDecision(mask.digest, ReviewChoice.KEEP, mask, BOXES)])
    return place


def effect(tool: Deidentifier) -> dict[str, object]:
    """Return what the settings came to: all that the work on an instance uses."""
    cleaner, registry = tool._cleaner, tool._registry
    resolver = cleaner.resolver
    return {
        "site": tool._site,
        "keys": resolver.pseudonyms._keys,
        "rules": cleaner.profile.fingerprint(),
        "max_age": cleaner.max_age,
        "policy": resolver.policy,
        "lookup": resolver.lookup and resolver.lookup.digest,
        "strict": resolver.strict,
        "pixels": (cleaner.pixels.pixels, cleaner.pixels.search_all, cleaner.pixels.keep_measurements),
        "decisions": cleaner.pixels.decisions,
        "faces": type(cleaner.faces),
        "registry": (registry.path, registry.policy),
    }


def test_no_setting_is_forgotten():
    assert {*VALUES, *FILES} == set(inspect.signature(Deidentifier).parameters)


@pytest.mark.parametrize("name", [*VALUES, *FILES])
def test_a_setting_has_its_effect_here_and_in_another_process(tmp_path, name):
    given = {"key": key_file(tmp_path), "site": "north"}
    given |= {NEEDS[name]: file_of(tmp_path, NEEDS[name])} if name in NEEDS else {}
    usual = effect(Deidentifier(**given))
    value = VALUES[name] if name in VALUES else file_of(tmp_path, name)
    other = Deidentifier(**{**given, name: value})
    assert effect(other) != usual
    assert effect(pickle.loads(pickle.dumps(other))) == effect(other)
