"""The batches of a step: every case has random numbers of its own, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from meninx.core.budget import PrivacyUnit
from meninx.core.manifest import Manifest
from meninx.learn.augment import augmenter
from meninx.learn.batches import Assembler
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore
from meninx.learn.sampler import PrivateSampler, unit_members, unit_names
from meninx.privacy.sampling import PoissonSampler

CONFIG = LearnConfig.of(augment=("flip", "shift", "rotate", "intensity"), views=2, patch_size=(8, 8))
Data = Callable[..., Manifest]


def assembler(data: Manifest, config: LearnConfig = CONFIG) -> Assembler:
    return Assembler(
        CaseStore(data, config.model),
        augmenter(config.augment, data.info),
        config.sampling.views,
        0.5,
        7,
        torch.device("cpu"),
    )


def draw(data: Manifest, most: int) -> PrivateSampler:
    units, called = unit_members(data, PrivacyUnit.PATIENT), unit_names(data, PrivacyUnit.PATIENT)
    return PrivateSampler(
        PoissonSampler(sample_rate=1.0, n_units=len(units), key=bytes(32)), units, called, 1.0, most, 7
    )


def test_a_case_is_augmented_alike_wherever_it_stands_and_whoever_else_is_there(dataset: Data) -> None:
    data = dataset(valid=0)
    whole = assembler(data)(tuple((case,) for case in range(8)), 3)
    fewer = replace(data, cases=tuple(reversed(data.cases[2:])))
    part = assembler(fewer)(((5,), (0,)), 3)  # the third and the last case of all
    rows = torch.tensor([4, 5, 14, 15])
    assert torch.equal(part.inputs, whole.inputs[rows])
    assert torch.equal(part.row_keys, whole.row_keys[rows])
    assert len(set(whole.row_keys.tolist())) == 16
    assert not torch.equal(whole.inputs[0], whole.inputs[1])


@pytest.mark.parametrize("change", ["case_id", "patient_id"])
def test_another_name_or_step_gives_other_numbers(dataset: Data, change: str) -> None:
    data = dataset(valid=0)
    renamed = replace(data, cases=(replace(data.cases[0], **{change: "other"}), *data.cases[1:]))
    first = assembler(data)(((0,),), 3)
    for other in (assembler(renamed)(((0,),), 3), assembler(data)(((0,),), 4)):
        assert not torch.equal(first.inputs, other.inputs)
        assert not set(first.row_keys.tolist()) & set(other.row_keys.tolist())


def test_the_choice_among_the_cases_of_a_patient_depends_on_this_patient_alone(dataset: Data) -> None:
    data = dataset(valid=0, cases=12, cases_per_patient=3)

    def chosen(data: Manifest, step: int) -> dict[str, set[str]]:
        found = [[data.cases[case] for case in group] for group in draw(data, 2)(step).units]
        return {group[0].patient_id: {case.case_id for case in group} for group in found}

    fewer = replace(data, cases=tuple(reversed(data.cases[3:])))
    for step in range(5):
        everybody = chosen(data, step)
        assert all(len(cases) == 2 for cases in everybody.values())
        assert chosen(fewer, step) == {patient: everybody[patient] for patient in fewer.patients}
    assert len({tuple(sorted(chosen(data, step)["train-p001"])) for step in range(20)}) == 3


def test_a_unit_is_named_by_what_it_is(dataset: Data) -> None:
    data = dataset(valid=0, cases=4, cases_per_patient=2)
    assert unit_names(data, PrivacyUnit.PATIENT) == ("train-p000", "train-p001")
    assert unit_names(data, PrivacyUnit.CASE) == tuple(case.case_id for case in data.cases)
