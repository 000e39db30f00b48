# SPDX-License-Identifier: Apache-2.0
"""Writes docs/support-matrix.md from what the last runs of tests/truth/test_programs.py left, here and in guests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from truth.matrix import GUESTS, PAGE, RESULTS, page


def main() -> None:
    lines = [
        line
        for path in sorted([*RESULTS.glob("*.jsonl"), *GUESTS.glob("*/matrix/*.jsonl")])
        for line in path.read_text().splitlines()
    ]
    if not lines:
        raise SystemExit("support_matrix: nothing ran yet: pytest tests/truth/test_programs.py")
    PAGE.write_text(page(json.loads(line) for line in lines))


main()
