# SPDX-License-Identifier: Apache-2.0
"""How many spans have their right parent, none, or a WRONG one, for a tracer of services that nobody instrumented.

A load asks a front, which calls a leaf; every request has a number in its path, so each span says whose it is,
whatever parent the tracer gave it. Two relations are judged: inside a process (the parent of the front's client span is
its server span of the same request) and between processes (the parent of the leaf's server span is that call's client
span). right: so it is. none: no parent. WRONG: another request's. missing: no span came, or not that of the right
parent. lost, extra: spans, the fronts' too, that did not come or came too often. The leaf writes down what it answered;
that is the truth.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from accuracy.plan import CONCURRENCY, SHAPES  # noqa: E402
from accuracy.report import LABELS, exit_code, lines, text  # noqa: E402
from accuracy.run import Options, Outcome, run  # noqa: E402
from accuracy.runtimes import RUNTIMES, Runtime  # noqa: E402

STINGLESS = (
    f"{ROOT}/.venv/bin/stingless run --port {{ports}} --otlp {{otlp}} --otlp-protocol http/protobuf --no-live"
    f" --metrics-interval 1h --attach {os.environ.get('STINGLESS_ATTACH', 'auto')}"
)
EXAMPLES = """\
examples:
  sudo .venv/bin/python benchmarks/accuracy                                 everything: twenty-five minutes
  sudo .venv/bin/python benchmarks/accuracy --runtime go,asyncio --concurrency 1,64 --shape seq,par
  sudo .venv/bin/python benchmarks/accuracy --by runtime,conc,connections,shape --self-test
  sudo .venv/bin/python benchmarks/accuracy --agent 'env OTEL_EBPF_OPEN_PORT={ports} obi'

Any tracer that exports spans by OTLP (http/protobuf) with HTTP's semantic conventions can be run. It is started after
the services, told to end by SIGTERM, and finds the receiver in {otlp} or OTEL_EXPORTER_OTLP_ENDPOINT.
exit code: 0: no WRONG parent, and no span missing; 1: some; 2: the run itself failed. What the services need is
installed by scripts/accuracy.sh; a runtime that is not here is named, with the reason.
"""


def among(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A type for argparse: a list of these, separated by commas."""

    def parse(given: str) -> tuple[str, ...]:
        wanted = tuple(given.split(","))
        if unknown := [word for word in wanted if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
        return wanted

    return parse


def counts(given: str) -> tuple[int, ...]:
    numbers = tuple(map(int, given.split(",")))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return numbers


def arguments() -> argparse.Namespace:
    known = "\n".join(f"  {r.name:15}{r.about}{_apart(r)}" for r in RUNTIMES)
    parser = argparse.ArgumentParser(
        prog="benchmarks/accuracy", description=__doc__, epilog=f"runtimes:\n{known}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    names = tuple(r.name for r in RUNTIMES)
    parser.add_argument("--runtime", type=among(names), default=names, metavar="LIST", help="default: all")
    parser.add_argument("--concurrency", type=counts, default=CONCURRENCY, metavar="LIST", help="default: 1,16,64,256")
    parser.add_argument("--shape", type=among(SHAPES), default=SHAPES, metavar="LIST", help=f"of {', '.join(SHAPES)}")
    parser.add_argument(
        "--connections", type=among(("kept", "closed")), default=("kept", "closed"), metavar="LIST",
        help="kept: used again and again; closed: one for each request",
    )  # fmt: skip
    parser.add_argument("--requests", type=int, default=256, metavar="N", help="a cell (at least 2 a connection)")
    parser.add_argument("--agent", default=STINGLESS, metavar="COMMAND", help="the tracer, with {otlp} and {ports}")
    parser.add_argument("--by", type=among(LABELS), default=("runtime", "conc"), metavar="LIST", help=", ".join(LABELS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON lines: a line a cell")
    parser.add_argument("--self-test", action="store_true", help="permute parents, and see that it is seen")
    parser.add_argument("--warm-up", type=float, default=30.0, metavar="S", help="for the tracer to see the services")
    parser.add_argument("--quiet", type=float, default=10.0, metavar="S", help="without a span, and none is awaited")
    return parser.parse_args()


def _apart(runtime: Runtime) -> str:
    shapes = "" if runtime.shapes == SHAPES else f"; only {', '.join(runtime.shapes)}"
    return shapes + (f"; not here: {runtime.missing()}" if runtime.missing() else "")


def shown(name: str, what: str) -> None:
    """What is going on, on standard error: a line that is written over where that is a terminal."""
    end = "\033[K\r" if sys.stderr.isatty() else "\n"
    print(f"{name}: {what}", end=end, file=sys.stderr, flush=True)


def main() -> int:
    given = arguments()
    options = Options(
        given.agent, given.requests, given.shape, given.concurrency, tuple(c == "kept" for c in given.connections),
        given.warm_up, given.quiet, given.self_test,
    )  # fmt: skip
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        for runtime in (r for r in RUNTIMES if r.name in given.runtime):
            outcomes.append(run(runtime, options, Path(folder) / runtime.name, partial(shown, runtime.name)))
            if given.json:
                given.json.write_text("".join(line + "\n" for line in lines(outcomes)))
    print(text(outcomes, given.by, time.monotonic() - started))
    return exit_code(outcomes)


if __name__ == "__main__":
    sys.exit(main())
