# SPDX-License-Identifier: Apache-2.0
"""The docs say what the code has: every map, program, loss, counter and own metric; and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from instrumenter.bpf.choose import HOOKS, REQUIRED
from instrumenter.telemetry import GAUGES, MEANINGS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def rows(kind: str) -> list[str]:
    """Rows of a table, as the page must have them: paste what is missing."""
    own = {name.removeprefix(kind): meaning for name, meaning in MEANINGS.items() if name.startswith(kind)}
    return [f"| `{name}` | {meaning.sentence} |" for name, meaning in own.items()]


@pytest.mark.parametrize("row", rows("kernel.lost."))
def test_kernel_losses_are_in_architecture(row: str) -> None:
    assert row in text("architecture.md").splitlines()


@pytest.mark.parametrize("row", rows("spans.dropped."))
def test_dropped_spans_are_in_metrics(row: str) -> None:
    assert row in text("metrics.md").splitlines()


@pytest.mark.parametrize("name", [n for n in MEANINGS if not n.startswith(("kernel.lost.", "spans.dropped."))])
def test_counters_are_in_metrics(name: str) -> None:
    meaning = MEANINGS[name]
    kind = "gauge" if name in GAUGES else "counter"
    assert f"| `{meaning.metric}` | {kind} | {meaning.unit} | {meaning.sentence} |" in text("metrics.md").splitlines()


@pytest.mark.parametrize("name", [n for n in MEANINGS if n.startswith(("kernel.lost.", "spans.dropped."))])
def test_every_loss_has_a_remedy(name: str) -> None:
    assert f"\n| `{name.rpartition('.')[2]}` |" in text("troubleshooting.md")


@pytest.mark.parametrize("name", re.findall(r"} (\w+) SEC\(\"\.maps\"\)", (ROOT / "probes/include/maps.h").read_text()))
def test_maps_are_in_architecture(name: str) -> None:
    assert f"`{name}`" in text("architecture.md")


@pytest.mark.parametrize("program", sorted(REQUIRED | {p for h in HOOKS for ways in h.ways.values() for p in ways}))
def test_hooks_are_in_architecture(program: str) -> None:
    """By the program's name, or by what it is attached to."""
    sources = "".join(path.read_text() for path in sorted((ROOT / "probes" / "kprobes").glob("*.bpf.c")))
    found = re.search(rf'SEC\("\??([^"]+)"\)\n[^\n]*\b{program}\b', sources)
    assert found, f"{program} has no SEC in probes/kprobes"
    kind, _, target = found[1].partition("/")
    page = text("architecture.md")
    assert f"`{program}`" in page or kind in page
    assert target in page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} in {page.name}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{link} in {page.name}: {sorted(anchors)}"
