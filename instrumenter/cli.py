# SPDX-License-Identifier: Apache-2.0
"""The command `stingless`: text in, settings and one call out.

The rule this file protects: whatever a user mistypes or lacks is one line on standard error with the remedy, never a
traceback. Options are made of the fields of config.py; only what belongs to one command is defined here.
Exit codes: 0 done, 1 cannot run on this machine, 2 the command line or a setting is wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from instrumenter.errors import CannotStart, ConfigError, StinglessError

if TYPE_CHECKING:
    from instrumenter.config_load import Leaf, Loaded

log = logging.getLogger("stingless")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}

_ABOUT = """\
Traces and RED metrics of HTTP services that nobody instrumented, from inside the Linux kernel.

  sudo stingless run                                   watch everything, live view on this terminal
  sudo stingless run --port 8080 --console             one service, spans and metrics as JSON lines
  sudo stingless run --otlp http://localhost:4318      send both to an OpenTelemetry collector
  sudo stingless run --exe '*/nginx' --prometheus 9464 metrics of nginx for Prometheus
  sudo stingless doctor                                what works on this machine, and what to do about the rest
"""
_RUN = """\
Watch this machine until SIGTERM or Ctrl-C.

examples:
  stingless run --port 80,8000-8100 --exclude-cmd '*healthcheck*'
  stingless run --pid 4711 --service-name checkout --otlp http://collector:4317
  stingless run --sampler traceidratio --sampler-arg 0.01 --keep-errors --keep-slower-than 500ms
  stingless run --config /etc/stingless.yaml --log-level debug
"""
_SOURCES = """\
Every option is also a setting: flag over STINGLESS_* variable over OTEL_* variable over --config FILE over default.
`stingless config` prints them all with where each value came from. Any other setting: --set sampling.arg=0.5
"""


class Parser(argparse.ArgumentParser):
    """argparse whose every complaint is one line, with the nearest right option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def commands(self) -> dict[str, Parser]:
        return {n: p for a in self._actions if isinstance(a, argparse._SubParsersAction) for n, p in a.choices.items()}


class Version(argparse.Action):
    """Looks the version up only when asked: that costs as much as parsing all else."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from instrumenter.parts import agent_version

        print(f"stingless {agent_version()}")
        parser.exit()


def parser(chosen: str = "") -> Parser:
    """The command line; of the commands with settings, only the chosen one has its options."""
    top = Parser(prog="stingless", description=_ABOUT, epilog="stingless COMMAND --help says more.")
    top.add_argument("--version", action=Version)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    run = commands.add_parser("run", help="watch this machine", description=_RUN, epilog=_SOURCES)
    record = commands.add_parser(
        "record",
        help="watch, and keep what the kernel gave in a file",
        description="Like run, and write every record of the kernel to FILE, for `stingless replay FILE`.",
    )
    replay = commands.add_parser(
        "replay",
        help="send a recorded file through the same pipeline",
        description="Read FILE as if the kernel gave it now: no root, no probes; spans go to the exporters.",
    )
    for command in (record, replay):
        command.add_argument("file", metavar="FILE", type=Path)
    doctor = commands.add_parser(
        "doctor",
        help="what works on this machine",
        description="Check kernel, rights, libraries and attach modes. Exit code 0: can run, 1: cannot.",
    )
    doctor.add_argument(
        "--pid",
        metavar="PID",
        type=int,
        action="append",
        default=[],
        help="only this process: is its TLS visible? Repeatable.",
    )
    doctor.add_argument("--json", action="store_true", help="one JSON object instead of text")
    config = commands.add_parser("config", help="print the effective settings and where each came from")
    config.add_argument("--schema", action="store_true", help="print the JSON schema of the settings file instead")
    for command in (run, record, replay, config):
        if command.prog.endswith(f" {chosen}"):
            _add_settings(command)
    for command in (run, record):
        command.add_argument(
            "--duration", metavar="DURATION", help="stop after this long, such as 30s (default: never)"
        )
    return top


def _add_settings(command: Parser) -> None:
    """One option for each field that has a flag, grouped as in config.py."""
    from instrumenter.config import Settings
    from instrumenter.config_load import leaves

    general = command.add_argument_group("settings")
    general.add_argument("--config", metavar="FILE", type=Path, help="YAML file (default: $STINGLESS_CONFIG)")
    general.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="any setting by its name; repeatable"
    )
    groups = {}
    for leaf in leaves():
        if len(leaf.path) == 1:
            _add_option(general, leaf)
            continue
        name = leaf.path[0]
        if name not in groups:
            about = " ".join((Settings.model_fields[name].annotation.__doc__ or "").split())
            groups[name] = command.add_argument_group(name, about)
        _add_option(groups[name], leaf)


def _add_option(group: argparse._ArgumentGroup, leaf: Leaf) -> None:
    text = leaf.description.replace("%", "%%")
    if flag := leaf.extra.get("flag"):
        many = isinstance(leaf.field.default, tuple)
        choices = [c for c in get_args(leaf.field.annotation) if isinstance(c, str) and c]
        group.add_argument(
            str(flag),
            dest=leaf.name,
            action="append" if many else "store",
            metavar=leaf.extra.get("metavar") or "|".join(choices) or None,
            help=f"{text}{' Repeatable.' if many else ''}{_default(leaf)}",
        )
    for flag, value in leaf.extra.get("constants", {}).items():
        group.add_argument(flag, dest=leaf.name, action="store_const", const=value, help=_constant_help(flag, text))


def _default(leaf: Leaf) -> str:
    default = leaf.field.default
    if default in ("", (), None, 0):
        return ""
    return f" Default: {default:g}s." if leaf.name.endswith("interval") else f" Default: {default}."


def _constant_help(flag: str, text: str) -> str:
    return {"--no-live": "Never the live view.", "--live": "The live view beside the exporters."}.get(flag) or (
        f"No {flag[5:]}." if flag.startswith("--no-") else text
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises ConfigError with the nearest right word for anything unknown."""
    from instrumenter.config_load import nearest

    first = argv[0] if argv else "--help"
    # An option without a command is looked for among those of `run`.
    top = parser("run" if first.startswith("-") else first)
    if (
        first.startswith("-")
        and first.partition("=")[0] in top.commands()["run"].options()
        and first not in top.options()
    ):
        raise ConfigError(f"{first} belongs to a command: stingless run {shlex.join(argv)}")
    if not first.startswith("-") and first not in top.commands():
        raise ConfigError(f"unknown command {first}{nearest(first, list(top.commands()))}; see stingless --help")
    options, unknown = top.parse_known_args(argv)
    if unknown:
        command = top.commands()[options.command] if options.command else top
        word = unknown[0].partition("=")[0]
        known = command.options()
        kind = "option" if word.startswith("-") else "argument"
        raise ConfigError(f"unknown {kind} {word}{nearest(word, known)}; see {command.prog} --help")
    return options


def load_settings(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Loaded:
    """The settings that the command line, the environment and the file say. Raises ConfigError."""
    from instrumenter.config_load import leaves, load, nearest

    known = {leaf.name: leaf for leaf in leaves()}
    flags = {}
    for name in known:
        value = getattr(options, name, None)
        if value in ("", [""]):
            raise ConfigError(f"{known[name].extra['flag']}: expected a value, got ''; leave it out for the default")
        if value is not None:
            flags[name] = ",".join(value) if isinstance(value, list) else str(value)
    for pair in options.set:
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            near = "" if name in known else nearest(name, list(known))
            raise ConfigError(f"--set {pair}: expected NAME=VALUE with the name of a setting{near}")
        flags[name] = value
    return load(flags, environ, options.config)


def setup_logging(level: str) -> None:
    """Lines on standard error; journald and container runtimes add the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lower("stingless: %(levelname)s: %(message)s"))
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    for noisy in ("urllib3", "grpc", "opentelemetry"):
        logging.getLogger(noisy).setLevel(max(_LEVELS[level], logging.WARNING))


class _Lower(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


def _command(options: argparse.Namespace) -> int:
    if options.command == "doctor":
        from instrumenter.doctor import main as doctor

        return doctor(options.json, options.pid)
    loaded = load_settings(options)
    setup_logging(loaded.settings.log_level)
    for line in loaded.warnings:
        log.warning("%s", line)
    if options.command == "config":
        from instrumenter.config_show import show

        print(show(loaded, schema=options.schema))
        return 0
    if options.command == "replay":
        from instrumenter import agent

        return agent.replay(loaded, options.file)
    return _run(loaded, options.duration, options.file if options.command == "record" else None)


def _run(loaded: Loaded, duration: str | None, recording: Path | None) -> int:
    from instrumenter.bpf.early import Early
    from instrumenter.config_types import duration as seconds
    from instrumenter.run import one_heap, require_rights, short_turns

    try:
        stop_after = seconds(duration) if duration is not None else None
    except ValueError as error:
        raise ConfigError(f"--duration: {error}, got {duration!r}") from None
    if loaded.settings.disabled:
        log.info("disabled by %s", loaded.source["disabled"])
        return 0
    require_rights()
    one_heap()
    # Imports take as long as the kernel does, so both go on at once: first what loads the probes, then all the rest.
    attach = loaded.settings.ebpf.attach
    with short_turns():
        early = Early(None if attach == "auto" else attach)
        from instrumenter.loading import Loading

        loading = Loading(loaded.settings, early, recording is not None)
        from instrumenter import agent

    return agent.run(loaded, loading, stop_after, recording)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if not arguments:
            parser().print_help()
            return 0
        return _command(parse(arguments))
    except StinglessError as error:
        print(f"stingless: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, CannotStart) else 1
    except BrokenPipeError:  # `stingless config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
