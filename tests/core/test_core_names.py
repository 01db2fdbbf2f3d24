"""Names from files: what does something where it is shown is refused or escaped."""

import pytest

from meninx.core import names
from meninx.core.errors import DataError


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a ",
        "$__import__('os').system('x')",
        "@network",
        "%file",
        "=1+1",
        "a\x1b[2J",
        "a\nb",
        "a\0",
        "a\u202eb",
        "a\u200b",
        "a\u2028b",
        "\ud800",
        "x" * 256,
        "#h",
        "a#b",
    ],
)
def test_a_name_that_does_something_is_refused_and_not_quoted(name: str):
    with pytest.raises(DataError, match=r"label 2, got .* \(table\.csv\)") as caught:
        names.check(["fine", name], what="label", where="table.csv")
    assert "__import__" not in str(caught.value)


def test_an_identifier_that_reaches_no_bundle_may_hold_a_hash_sign():
    assert names.problem("12#3", hash_sign=True) == ""
    assert "#" in names.problem("12#3")


def test_ordinary_names_pass():
    names.check(
        [
            "Pleural effusion",
            "T1-hyperintense",
            "Größe > 3 cm",
            "心肥大",
            "no_finding",
            "x" * 255,
            "5%",
            "a$b",
        ],
        what="label",
        where="x",
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", r"a \| b"),
        ("<script>", r"\<script\>"),
        ("[x](http://y)", r"\[x\]\(http\://y\)"),
        ("see https://evil.example", r"see https\://evil.example"),
        ("www.evil.example", r"www\.evil.example"),
        ("a@b.example", r"a\@b.example"),
        ("&lt;b&gt;", r"\&lt;b\&gt;"),
        ("1. item", r"1\. item"),
        ("- item", r"\- item"),
        ("===", r"\==="),
        ("a\n# b", r"a \# b"),
        ("0.5 to 1.5 mm", "0.5 to 1.5 mm"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str):
    assert names.markdown(text) == shown


@pytest.mark.parametrize("text", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1"])
def test_a_formula_is_quoted_in_a_spreadsheet(text: str):
    assert names.csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a", "-1.5", "+3", "1e-3", "a=b"])
def test_numbers_and_text_stay(text: str):
    assert names.csv_cell(text) == text


def test_text_that_is_shown_holds_no_control_or_direction_character():
    text = "a\x1b[31m\u202eb\nc\udcff é"
    assert names.printable(text) == "a?[31m?b?c? é"
    assert names.printable(text, hidden=" ") == "a [31m b c  é"
