"""Texts of strangers in spreadsheets and on terminals."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cells import cell, plain


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "|x", " =1", "＝1"])
def test_a_cell_is_no_formula(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["gpt", "spiffe://example.org/ns/a", "", "1"])
def test_other_texts_stay_as_they_are(text):
    assert (cell(text), plain(text)) == (text, text)


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_a_sheet_has_the_rows_and_cells_that_were_written(texts):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([cell(text) for text in texts])
    assert [len(row) for row in csv.reader(io.StringIO(out.getvalue(), newline=""))] == [len(texts)]


@given(st.text())
def test_nothing_that_is_printed_steers_a_terminal(text):
    assert plain(text).isprintable()
