from __future__ import annotations

import pytest

from meninx.core.errors import ConfigError
from meninx.deid.identity.issuer_policy import IssuerPolicy, read_policy


def written(folder, text: str):
    path = folder / "domains.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_domains_is_read_in_the_form_in_which_issuers_are_compared(tmp_path):
    text = 'site = ["North PACS"]\n"East  Lab" = ["ＥＬＡＢ ", "east"]\nNorth = ["RIS"]\n'
    policy = read_policy(written(tmp_path, text), "NORTH", "separate", "quarantine")
    own = {"north": "", "north pacs": "", "ris": ""}
    assert policy.domains == own | dict.fromkeys(("elab", "east", "east  lab"), "east  lab")
    assert (policy.rule, policy.missing) == ("separate", "quarantine")
    assert policy.domain("North PACS ") == policy.domain("RIS") == policy.domain("north") == ""
    assert policy.domain("East  lab") == policy.domain("elab") == "east  lab"
    assert policy.domain("else") == "else"


def test_without_a_file_only_the_site_is_listed():
    assert read_policy(None, "north") == IssuerPolicy("north", domains={"north": ""})


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("not toml", "TOML"),
        ("east = 3\n", "entry 1"),
        ('east = "EAST"\n', "entry 1"),
        ("east = [3]\n", "entry 1"),
        ('site = ["A"]\neast = [" "]\n', "entry 2"),
        ('" " = ["A"]\n', "entry 1"),
        ('a = ["Secret"]\nb = ["secret "]\n', "entry 2"),
        ('a = ["Secret"]\nsecret = ["B"]\n', "entry 2"),
        ('east = ["north"]\n', "entry 1"),  # the site's own name
        ("[east]\na = 1\n", "entry 1"),
    ],
)
def test_a_wrong_file_is_refused_by_its_place_and_without_issuers(tmp_path, text, where):
    with pytest.raises(ConfigError, match=where) as refusal:
        read_policy(written(tmp_path, text), "north")
    assert "ecret" not in str(refusal.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "d.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "d.toml", tmp_path / "absent", tmp_path):
        with pytest.raises(ConfigError, match="TOML"):
            read_policy(path, "north")
