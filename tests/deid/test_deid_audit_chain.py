from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meninx.deid.papers.audit_chain import AuditChain, check, check_lines

tables = st.lists(
    st.fixed_dictionaries({"file": st.text(max_size=8), "boxes": st.integers(0, 9)}), min_size=1, max_size=6
)


def chain_of(rows):
    chain = AuditChain()
    return [chain.line(row) for row in rows], chain


@given(tables)
def test_a_log_as_it_was_written_has_no_fault(rows):
    lines, chain = chain_of(rows)
    found = check_lines(lines)
    assert (found.wrong, found.lines, found.head) == ("", len(rows), chain.head)


@given(tables, st.data())
def test_any_changed_byte_is_found_by_the_chain_or_by_its_head(rows, data):
    lines, chain = chain_of(rows)
    content = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    found = check_lines(bytes(content).splitlines(keepends=True))
    assert found.wrong or found.head != chain.head or found.lines != chain.lines


def test_swapped_removed_and_added_lines_break_the_chain_at_their_place():
    lines, chain = chain_of([{"file": str(number)} for number in range(5)])
    assert check_lines([*lines[:2], lines[3], lines[2], lines[4]]).wrong.startswith("line 3 does not follow")
    assert check_lines([*lines[:2], *lines[3:]]).wrong.startswith("line 3 does not follow")
    assert check_lines(lines[1:]).wrong.startswith("line 1 does not follow")
    assert check_lines(lines[:-1]).head != chain.head
    assert check_lines([*lines, lines[-1]]).wrong.startswith("line 6 does not follow")


@pytest.mark.parametrize(
    "line",
    [b"", b"[" * 100_000, b"[]\n", b"{}\n", b"null\n", b'{"previous": 1}\n', b"\xff\n", b"1" * 5000 + b"\n"],
)
def test_a_line_of_another_kind_is_a_fault_and_no_crash(line, tmp_path):
    (tmp_path / "audit.jsonl").write_bytes(line or b"\n")
    assert "line 1" in check(tmp_path / "audit.jsonl").wrong


def test_a_line_that_only_reads_the_same_is_a_fault():
    lines, _ = chain_of([{"file": "a"}])
    table = json.loads(lines[0])
    assert "written" in check_lines([json.dumps(table, indent=1).replace("\n", "").encode() + b"\n"]).wrong


def test_each_line_names_the_bytes_of_the_line_before_with_its_line_feed():
    lines, chain = chain_of([{"file": str(number)} for number in range(3)])
    digests = [hashlib.sha256(line).hexdigest() for line in lines]
    assert all(line.endswith(b"\n") for line in lines)
    assert [json.loads(line)["previous"] for line in lines[1:]] == digests[:-1]
    assert chain.head == digests[-1]
