"""One record per aggregation method: who is covered, what leaves a site, and no claim for an unknown one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from rounds_samples import enrolled

from meninx.core.errors import ConfigError
from meninx.federated.aggregation_methods import METHODS, fewest, method_of, site_sides
from meninx.federated.config import AggregationConfig, AggregationMethod, StudyConfig


def test_an_unknown_method_is_refused_and_not_taken_for_masks(tmp_path: Path) -> None:
    roster, keys = enrolled()
    config = AggregationConfig()
    object.__setattr__(config, "method", "later")
    with pytest.raises(ConfigError, match="expected masks, shares, ckks or plain, got later"):
        site_sides(config, roster, "east", keys["east"], tmp_path / "history")


def test_every_method_of_the_settings_has_one_record() -> None:
    assert tuple(METHODS) == get_args(AggregationMethod)


@pytest.mark.parametrize("name", get_args(AggregationMethod))
def test_what_is_said_of_a_method_follows_from_one_record(name: str) -> None:
    method, config = METHODS[name], AggregationConfig.of(aggregation=name)
    assert bool(method.seen) == (not config.secure) == (method.colluders(4) is None)
    if config.secure:
        for sites in (2, 33):
            with pytest.raises(ConfigError, match="3 to 32 sites"):
                method.fewest(sites)
    else:
        assert "can send any model" in method.checks
        assert "No secure aggregation" in method.sentence(4)


def test_a_study_that_hands_the_model_on_adds_nothing_up() -> None:
    study = StudyConfig.of(algorithm="cyclic", aggregation="plain")
    method = method_of(study)
    assert (fewest(study, 10), method.colluders(10)) == (1, None)
    assert "nothing is added up" in method.sentence(10)


def test_the_table_imports_no_torch() -> None:
    code = "import sys, meninx.federated.aggregation_methods; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
