"""Tables and image names: what is written is read back, and no image is chosen among several."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meninx.core.csv_table import read_table
from meninx.core.errors import LayoutError
from meninx.core.manifest import TaskKind
from meninx.prepare.readers.layout import merge_rows
from meninx.prepare.readers.source_files import ImageIndex
from meninx.prepare.source_cases import FileSource, SourceCase

WORDS = st.text(st.characters(codec="latin-1", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8)
NAMES = st.text("ab", min_size=1, max_size=2)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=60)
@given(
    cells=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "latin-1")),
)
def test_a_table_is_read_as_it_was_written_or_refused(cells, separator, encoding):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator).writerows([("one", "two"), *cells])
    data = buffer.getvalue().encode(encoding)
    if encoding == "latin-1":
        assume(
            data.isascii() or not _is_utf8(data)
        )  # the same bytes are another text in UTF-8, which goes first
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(data)
        try:
            table = read_table(path)
        except LayoutError:  # Latin-1 that could also be damaged UTF-8
            assert encoding == "latin-1"
            return
    written = [(one.strip(), two.strip()) for one, two in cells if any((one, two))]
    assert [(row.get("one"), row.get("two")) for row in table] == written


@settings(max_examples=60)
@given(
    paths=st.sets(st.tuples(NAMES, NAMES, st.sampled_from((".png", ".jpg"))), min_size=1, max_size=6),
    cell=st.tuples(st.sampled_from(("", "a", "b", "ab")), NAMES, st.sampled_from(("", ".png", ".jpg"))),
)
def test_an_image_is_found_only_if_no_other_fits_as_well(paths, cell):
    parent, name, suffix = cell
    text = f"{parent}/{name}{suffix}" if parent else name + suffix
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for place, stem, ending in paths:
            (root / place).mkdir(exist_ok=True)
            (root / place / f"{stem}{ending}").touch()
        index = ImageIndex(root, (".png", ".jpg"))
        found = index.find(text)
        named = [path for path in paths if path[1] == name and suffix in ("", path[2])]
        placed = [path for path in named if path[0] == parent] or named
        if len(placed) == 1:
            assert found == root / placed[0][0] / f"{placed[0][1]}{placed[0][2]}"
            index.refuse_ambiguous()
        else:
            assert found is None
            if placed:
                with pytest.raises(LayoutError, match="1 image name"):
                    index.refuse_ambiguous()


@settings(max_examples=60)
@given(
    votes=st.lists(st.sampled_from((0.0, 1.0, None)), min_size=1, max_size=5),
    rule=st.sampled_from(("any", "majority")),
    order=st.randoms(use_true_random=False),
)
def test_rows_of_one_image_vote_in_any_order(votes, rule, order):
    def merged(values):
        cases = [
            SourceCase(
                key="a", patient="p", image=FileSource(Path("a.png")), where=f"row {n}", labels={"ill": value}
            )
            for n, value in enumerate(values)
        ]
        ((found,), disagreeing, _) = merge_rows(cases, TaskKind.MULTILABEL, rule)
        assert disagreeing == []
        return found.labels["ill"]

    known = [value for value in votes if value is not None]
    shuffled = list(votes)
    order.shuffle(shuffled)
    assert merged(votes) == merged(shuffled)
    if not known:
        assert merged(votes) is None
    elif rule == "any":
        assert merged(votes) == max(known)
    else:
        share = sum(known) / len(known)
        assert merged(votes) == (None if share == 0.5 else float(share > 0.5))
