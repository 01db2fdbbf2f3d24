"""Messages between coordinator and sites: numbers and names out of range are refused where bytes come in."""

from __future__ import annotations

import pytest

from meninx.core.errors import DataError
from meninx.federated import messages
from meninx.federated.messages import Position


@pytest.mark.parametrize(
    "changes",
    [
        {"round": -1},
        {"round": 1 << 40},
        {"attempt": -1},
        {"run": "../up"},
        {"run": "x" * 65},
        {"run": ""},
        {"run": "a1\n"},
        {"study": "x" * 300},
    ],
    ids=["before", "huge", "attempt", "path", "long", "empty", "line", "study"],
)
def test_a_position_out_of_range_is_refused(changes: dict[str, object]) -> None:
    at = Position(**{"study": "chest", "run": "a1", "round": 0, "attempt": 0, **changes})
    with pytest.raises(DataError, match="not one of meninx"):
        messages.decode_request(messages.encode(messages.Hello(at=at)))


def test_too_many_names_are_refused() -> None:
    at = Position(study="chest", run="a1", round=0, attempt=0)
    for survivors in (("north",) * 2000, ("x" * 300,)):
        with pytest.raises(DataError, match="not one of meninx"):
            messages.decode_request(messages.encode(messages.Agree(at=at, survivors=survivors)))
