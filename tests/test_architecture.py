# SPDX-License-Identifier: Apache-2.0
"""The shape of the code, as tests: who may import whom, how long files and functions may be. Part of `make check`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("instrumenter", "exporters")
MAY_IMPORT_EXPORTERS = {"instrumenter/agent.py", "instrumenter/cli.py", "instrumenter/outputs.py"}
EXPORTERS_MAY_IMPORT = {"model", "errors", "telemetry", "config"}  # of instrumenter; also names beginning so
HEAVY = {
    "capstone",
    "elftools",
    "grpc",
    "requests",
    "rich",
    "textual",
    "kubernetes",
    "prometheus_client",
    "pydantic_settings",
}
# The way of a request: a stage imports only stages before it, and what all share. Not listed: shared.
STAGES = ("source", "protocols", "traces", "names", "metrics", "agent", "cli")

# The same within `protocols`: from the bytes to the exchange.
PARTS = (
    "http2_events", "http2_table", "http2_headers", "rpc", "http2_format", "http2_start", "http2_frames",
    "http2_streams", "http2", "http2_records", "http2_rows",
)  # fmt: skip

PYTHON_LINES = 330
PYTHON_FUNCTION = 45
BPF_LINES = 260
BPF_FUNCTION = 65


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def bpf_files() -> list[Path]:
    return sorted([*(ROOT / "probes").rglob("*.bpf.c"), *(ROOT / "probes").rglob("*.h")])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of what a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def stage(module: str) -> int | None:
    """Place in the way of a request of "instrumenter.X..."; None if all share it."""
    parts = module.split(".")
    return STAGES.index(parts[1]) if len(parts) > 1 and parts[0] == "instrumenter" and parts[1] in STAGES else None


def part(module: str) -> int | None:
    """Place within `protocols` of "instrumenter.protocols.X..."."""
    parts = module.split(".")
    return PARTS.index(parts[2]) if len(parts) > 2 and parts[1] == "protocols" and parts[2] in PARTS else None


def violations(path: str, source: str) -> list[str]:
    """What this file imports that it must not."""
    tree = ast.parse(source)
    found = []
    dotted = path.removesuffix(".py").replace("/", ".")
    own, own_part = stage(dotted), part(dotted)
    for module in imports(tree):
        first, _, rest = module.partition(".")
        if module.startswith("."):
            found.append(f"relative import {module}")
        if first == "exporters" and not path.startswith("exporters/") and path not in MAY_IMPORT_EXPORTERS:
            found.append(f"imports {module}: only agent.py, outputs.py and cli.py know exporters")
        allowed = rest.partition(".")[0].startswith(tuple(EXPORTERS_MAY_IMPORT))
        if first == "instrumenter" and path.startswith("exporters/") and not allowed:
            found.append(f"imports {module}: exporters know only {', '.join(sorted(EXPORTERS_MAY_IMPORT))}")
        its = stage(module)
        if own is not None and its is not None and its > own:
            found.append(f"imports {module}: a later stage")
        its = part(module)
        if own_part is not None and its is not None and its > own_part:
            found.append(f"imports {module}: a later part of protocols")
    return found + [f"imports {module} when loaded: heavy, import it where it is used" for module in at_load(tree)]


def at_load(tree: ast.Module) -> list[str]:
    """Heavy libraries imported by statements that run when the module is loaded."""
    return [
        module
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in imports(node)
        if module.partition(".")[0] in HEAVY
    ]


RULES = [
    ("instrumenter/names.py", "from exporters import otlp", "only agent.py"),
    ("instrumenter/agent.py", "from exporters import otlp", ""),
    ("exporters/otlp.py", "from instrumenter.discovery import registry", "exporters know only"),
    ("exporters/otlp.py", "from instrumenter.config_types import Url", ""),
    ("exporters/otlp.py", "def f():\n    import grpc", ""),
    ("exporters/otlp.py", "import grpc", "heavy"),
    ("instrumenter/traces.py", "def f():\n    from instrumenter.metrics import x", "a later stage"),
    ("instrumenter/metrics.py", "from instrumenter.names import x", ""),
    ("instrumenter/names.py", "from . import traces", "relative"),
    ("instrumenter/protocols/http2.py", "from instrumenter.names import x", "a later stage"),
    ("instrumenter/protocols/http2.py", "from instrumenter.protocols.rpc import x", ""),
    ("instrumenter/protocols/http2_headers.py", "from instrumenter.protocols.http2 import x", "a later part"),
    ("instrumenter/source.py", "from instrumenter.protocols import http2", "a later stage"),
]


@pytest.mark.parametrize(("path", "source", "expected"), RULES)
def test_rules_find_violations(path: str, source: str, expected: str) -> None:
    found = violations(path, source)
    assert bool(found) == bool(expected)
    assert expected in " ".join(found)


@pytest.mark.parametrize("path", python_files(*PACKAGES), ids=name)
def test_imports(path: Path) -> None:
    assert violations(name(path), path.read_text()) == []


def python_functions(source: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield node.name, node.end_lineno - node.lineno + 1


def bpf_functions(source: str) -> Iterator[tuple[str, int]]:
    """Brace blocks in column 0, as kernel style has them; structs and initializers end in `};` or `} name`."""
    start, opened = 0, ""
    for number, line in enumerate(source.splitlines(), 1):
        if line == "{" or (re.search(r"\)\s*\{$", line) and not line[0].isspace()):
            start = start if line == "{" and start else number
            opened = opened or line
        elif line == "}" and opened:
            yield f"line {start}", number - start + 1
            start, opened = 0, ""


@pytest.mark.parametrize("path", python_files(*PACKAGES, "tests", "benchmarks", "scripts"), ids=name)
def test_python_sizes(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= PYTHON_LINES
    assert [f for f in python_functions(source) if f[1] > PYTHON_FUNCTION] == []


@pytest.mark.parametrize("path", bpf_files(), ids=name)
def test_bpf_sizes(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= BPF_LINES
    assert [f for f in bpf_functions(source) if f[1] > BPF_FUNCTION] == []


def test_function_meters() -> None:
    assert list(python_functions("def f():\n    x = 1\n    return x\n")) == [("f", 3)]
    code = "struct a {\n\tint b;\n};\nstatic int f(int a)\n{\n\tif (a) {\n\t\ta = 1;\n\t}\n\treturn a;\n}\n"
    assert list(bpf_functions(code)) == [("line 5", 6)]


@pytest.mark.parametrize("path", python_files(*PACKAGES, "tests", "benchmarks", "scripts"), ids=name)
def test_licence_and_place_in_flow(path: Path) -> None:
    """The first line is the licence; every module that has code says what it is for."""
    source = path.read_text()
    if source.strip():
        assert source.startswith("# SPDX-License-Identifier: Apache-2.0\n")
        assert ast.get_docstring(ast.parse(source))
