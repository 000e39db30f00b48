# SPDX-License-Identifier: Apache-2.0
"""The command as a user runs it: exit codes, and one line for whatever is wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instrumenter import cli
from instrumenter.errors import ConfigError
from instrumenter.run import notify, seconds_since_exec

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("STINGLESS_", "OTEL_"))}


def stingless(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the real command in a process of its own."""
    code = "import sys; from instrumenter.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=CLEAN | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rnu", "unknown command rnu (did you mean run?); see stingless --help"),
        ("run --prot 80", "unknown option --prot (did you mean --port?); see stingless run --help"),
        ("run --keep-error", "unknown option --keep-error (did you mean --keep-errors?); see stingless run --help"),
        ("run 80", "unknown argument 80; see stingless run --help"),
        ("--port 80", "--port belongs to a command: stingless run --port 80"),
        ("run --port", "argument --port: expected one argument; see stingless run --help"),
        ("record", "the following arguments are required: FILE; see stingless record --help"),
        ("-x", "unknown option -x; see stingless --help"),
        ("doctor --jsn", "unknown option --jsn (did you mean --json?); see stingless doctor --help"),
    ],
)
def test_wrong_words(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(arguments.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        ("--port 80 --port 8000-8010,9000", "discovery.ports", ((80, 80), (8000, 8010), (9000, 9000))),
        ("--exe */nginx --exe */node", "discovery.exe", ("*/nginx", "*/node")),
        ("--pid 1 --pid 2", "discovery.pids", (1, 2)),
        ("--all", "discovery.all", True),
        ("--attach kprobe", "ebpf.attach", "kprobe"),
        ("--keep-errors --keep-slower-than 500ms", "sampling.keep_slower_than", 0.5),
        ("--no-traces", "exporters.traces", ()),
        ("--no-live", "exporters.live", False),
        ("--console", "exporters.console", True),
        ("--otlp http://c:4318 --set otlp.timeout=3s", "otlp.timeout", 3.0),
        ("--prometheus :9464", "prometheus.address", "0.0.0.0:9464"),
    ],
)
def test_options_are_settings(arguments: str, name: str, expected: object) -> None:
    found: object = cli.load_settings(cli.parse(["run", *arguments.split()]), {}).settings
    for part in name.split("."):
        found = getattr(found, part)
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "starts"),
    [
        (["run", "--port", "eighty"], {}, 2, "stingless: --port: expected ports from 1 to 65535"),
        (["run", "--set", "sampling.ratio=1"], {}, 2, "stingless: --set sampling.ratio=1: expected NAME=VALUE"),
        (["run", "--config", "/nonexistent.yaml"], {}, 2, "stingless: /nonexistent.yaml: cannot be read"),
        (
            ["run", "--set", "sampling.arg"],
            {},
            2,
            "stingless: --set sampling.arg: expected NAME=VALUE with the name of",
        ),
        (["run", "--otlp", ""], {}, 2, "stingless: --otlp: expected a value, got ''; leave it out for the default"),
        (["run", "--port", ""], {}, 2, "stingless: --port: expected a value, got ''; leave it out for the default"),
        (["run", "--otlp", "http://c:99999"], {}, 2, "stingless: --otlp='http://c:99999' is not a URL"),
        (["run", "--metrics-interval", "0s"], {}, 2, "stingless: --metrics-interval: expected at least 10ms, got '0s'"),
        (["run", "--duration", "soon"], {}, 2, "stingless: --duration: expected a duration"),
        (
            ["config"],
            {"STINGLESS_LOG_LEVL": "debug"},
            2,
            "stingless: STINGLESS_LOG_LEVL: no such setting (did you mean",
        ),
        (["replay", "/nonexistent"], {}, 1, "stingless: cannot read the recording /nonexistent"),
        (["run"], {"OTEL_SDK_DISABLED": "true"}, 0, "stingless: info: disabled by OTEL_SDK_DISABLED"),
    ],
)
def test_one_line_and_its_exit_code(arguments: list[str], environ: dict[str, str], code: int, starts: str) -> None:
    got, out, err = stingless(*arguments, environ=environ)
    assert (got, out) == (code, "")
    assert err.startswith(starts)
    assert err.count("\n") == 1


def test_help_teaches() -> None:
    code, out, err = stingless()
    assert (code, err) == (0, "")
    assert "sudo stingless run --otlp http://localhost:4318" in out
    code, out, _ = stingless("run", "--help")
    assert code == 0
    for word in ("examples:", "discovery:", "--exclude-cmd GLOB", "--keep-slower-than DURATION", "sampling.arg=0.5"):
        assert word in out


def test_config_prints_values_and_sources() -> None:
    code, out, err = stingless("config", "--port", "80", environ={"OTEL_TRACES_SAMPLER": "xray"})
    assert code == 0
    assert any(line.split() == ["discovery.ports", "80", "--port"] for line in out.splitlines())
    assert err.startswith("stingless: warning: OTEL_TRACES_SAMPLER: expected one of")
    code, out, _ = stingless("config", "--schema")
    assert code == 0
    assert '"additionalProperties": false' in out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_without_rights_it_says_what_is_lacking() -> None:
    code = (
        "import ctypes, sys\nfrom instrumenter.cli import main\nlibc = ctypes.CDLL(None)\n"
        "head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
        "assert libc.capset(head, data) == 0\n"
        "sys.exit(main(['run']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("stingless: no rights to load probes: lacks CAP_BPF")
    assert "sudo stingless" in done.stderr
    assert done.stderr.count("\n") == 1


def test_notify_reaches_the_service_manager(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(tmp_path / "notify")
        manager.bind(path)
        manager.settimeout(5)
        notify("READY=1", {"NOTIFY_SOCKET": path})
        assert manager.recv(64) == b"READY=1"
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notify("READY=1", {})


def test_seconds_since_exec_are_this_process(tmp_path: Path) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = int((now - 2.0) * os.sysconf("SC_CLK_TCK"))
    stat = tmp_path / "stat"
    stat.write_text(f"7 (a b) c) S {' '.join(['0'] * 18)} {ticks} 0 0\n")
    assert 1.9 < seconds_since_exec(stat) < 7.0
    assert 0.0 < seconds_since_exec() < 86400.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(number: signal.Signals) -> None:
    code = (
        "import signal, sys\nfrom instrumenter.run import Stop\nstop = Stop()\nprint('up', flush=True)\n"
        "while not stop.requested: signal.pause()\nprint('asked', flush=True)\nwhile True: signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(number)
        try:
            assert process.wait(timeout=10) == 128 + number
        finally:
            process.kill()
