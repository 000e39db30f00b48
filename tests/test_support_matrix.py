# SPDX-License-Identifier: Apache-2.0
"""docs/support-matrix.md has the rows of the tables and no other, so that it cannot drift from what is tested."""

from __future__ import annotations

from collections import Counter

import pytest
from truth.matrix import PAGE, Row, page, rows

ROWS = list(rows())


def listed() -> list[tuple[str, ...]]:
    """Program, side, protocol and library of each row of the page."""
    found: list[tuple[str, ...]] = []
    side = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            side = line.removeprefix("## ").lower().removesuffix("s")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "program":
            found.append((cells[0], side, cells[2], "" if cells[3] == "none" else cells[3]))
    return found


def test_page_lists_the_programs_of_the_tables() -> None:
    assert set(listed()) == {row.key for row in ROWS}


def test_rows_differ() -> None:
    assert [key for key, n in Counter(row.key for row in ROWS).items() if n > 1] == []


@pytest.mark.parametrize("row", [ROWS[0], ROWS[-1]], ids=str)
def test_runs_with_the_same_result_share_a_line(row: Row) -> None:
    results = [(*row.key, "1.2", f"6.{n}.5-x", "fentry", "exact") for n in (1, 12)]
    (line,) = [line for line in page(results).splitlines() if line.startswith(f"| {row.program} |")]
    assert line.endswith("| exact | 6.1 fentry, 6.12 fentry |")
