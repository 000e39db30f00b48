# SPDX-License-Identifier: Apache-2.0
"""What a command line says about the service that it runs: one small reader per family of interpreters.

In: argv and the runtime of its executable. Out: a `Guess`. The rule: look only at the text (service_name.py looks at
files and decides); never guess past an option that is not known to take no value. Process titles written over argv
(setproctitle) are read first; they are one argument with spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from instrumenter.discovery import generic
from instrumenter.discovery.python_commands import PYTHON_SERVERS, python_command, python_server
from instrumenter.discovery.words import Guess, options, word_set
from instrumenter.enrich.runtime import Runtime, base_name


class _Title(NamedTuple):
    """A rewritten process title. `name` is a template of the match; declared: the service chose that name itself."""

    pattern: re.Pattern[str]
    name: str
    declared: bool = True


_TITLES: Final = tuple(
    _Title(re.compile(pattern), name, declared)
    for pattern, name, declared in (
        (r"(?:gunicorn|unicorn(?:_rails)?|granian): .*\[(?P<target>[^\]]+)\]", "", True),
        (r"puma[: ].*\[(?P<name>[^\]]+)\]\s*$", r"\g<name>", True),
        (r"puma[: ].*", "", False),
        (r"php-fpm: pool (?!www$)(?P<name>\S+)", r"\g<name>", True),
        (r"php-fpm[\d.]*: .*", "php-fpm", True),
        (r"sidekiq [\d.]+ (?P<name>[\w.-]+) \[", r"\g<name>", True),
        (r"Passenger \w+: (?P<project>/\S+)", "", False),
        (r"unicorn(?:_rails)? (?:master|worker)\b.*", "", False),
        (r"next-server\b.*", "", False),
        (r"PM2 v?[\d.]+: God Daemon.*", "pm2", True),
        (r"celery(?:d|beat)?: (?P<name>[\w.-]+)@.*", "", False),
        (r"(?P<name>[A-Za-z][\w.+-]*): .*", r"\g<name>", False),  # nginx: worker process; postgres: checkpointer
    )
)


def describe(argv: Sequence[str], runtime: Runtime) -> Guess:
    """The best that can be said from the command line alone; an empty Guess if nothing."""
    if not argv:
        return Guess()
    if (guess := _title(argv)) is not None:
        return guess
    if not runtime.family:
        name = base_name(argv[0])
        return python_server(name, argv[1:]) if name in PYTHON_SERVERS else Guess()
    return _FAMILIES[runtime.family](argv[1:])


def _title(argv: Sequence[str]) -> Guess | None:
    """A title is one argument: blanks in argv[0], or a runner's name followed by a colon (`puma: cluster worker`)."""
    head, blank, _ = argv[0].partition(" ")
    if (not blank and not head.endswith(":")) or "/" in head:
        return None
    text = " ".join(argv)
    for title in _TITLES:
        if (match := title.pattern.match(text)) is None:
            continue
        found = match.groupdict()
        if application := found.get("target"):
            name = generic.target(application) if re.search(r"[:.]", application) else application
            return Guess(name, declared=bool(name) and not generic.is_generic(name), project=".")
        return Guess(match.expand(title.name), title.declared, found.get("project") or ".")
    return None


_NODE_VALUED: Final = word_set(
    "-r --require --import --loader --experimental-loader -C --conditions --env-file --icu-data-dir --title "
    "--preload --input-type --stack-trace-limit -c --config"
)
_NODE_VERBS: Final = frozenset(("run", "serve", "start", "watch", "task"))
_NODE_EXTENSIONS: Final = "[cm]?[jt]sx?"


def _node(args: Sequence[str]) -> Guess:
    given, rest = options(args, _NODE_VALUED)
    if "--title" in given:
        return Guess(given["--title"], declared=True)
    if given.keys() & {"-e", "--eval", "-p", "--print"} or not rest:
        return Guess(project=".")
    if rest[0] in _NODE_VERBS:  # deno run, bun run
        rest = options(rest[1:], _NODE_VALUED)[1]
        if not rest or not re.search(rf"\.{_NODE_EXTENSIONS}$", rest[0]):
            return Guess(project=".")  # the name of a task in package.json
    script = rest[0]
    project, modules, package = script.rpartition("/node_modules/")
    if modules:  # a tool such as node_modules/.bin/next serves the project; a global one (npm, pm2) is itself
        return Guess(package.split("/")[0]) if project.endswith("/lib") else Guess(project=project or "/")
    return Guess(generic.stem(script, _NODE_EXTENSIONS), project=_parent(script))


_JAVA_VALUED: Final = word_set(
    "-cp -classpath --class-path -p --module-path --upgrade-module-path --add-modules --add-reads --add-exports "
    "--add-opens --limit-modules --patch-module --source -jar -m --module"
)
# Servers whose main class is less known than they are: beginning of the class -> name.
_JAVA_SERVERS: Final[Mapping[str, str]] = {
    "org.apache.catalina.": "tomcat",
    "kafka.Kafka": "kafka",
    "org.elasticsearch.": "elasticsearch",
    "org.opensearch.": "opensearch",
    "org.apache.zookeeper.": "zookeeper",
    "org.apache.cassandra.": "cassandra",
    "org.neo4j.": "neo4j",
    "org.logstash.": "logstash",
    "org.jboss.modules.": "wildfly",
    "org.apache.solr.": "solr",
    "org.eclipse.jetty.start.": "jetty",
    "clojure.main": "clojure",
}


def _java(args: Sequence[str]) -> Guess:
    for arg in args:
        for prefix in ("-Dotel.service.name=", "-Dspring.application.name=", "--spring.application.name="):
            if arg.startswith(prefix) and arg != prefix:
                return Guess(arg[len(prefix) :], declared=True)
    # java's options end at the main class; -jar and --module name it themselves
    given, rest = options(args, _JAVA_VALUED)
    if path := given.get("-jar"):
        return Guess(generic.jar(path), project=_parent(path))
    main = given.get("-m") or given.get("--module") or (rest[0] if rest else "")
    main_class = main.rpartition("/")[2]
    server = next((name for prefix, name in _JAVA_SERVERS.items() if main_class.startswith(prefix)), "")
    home = next((a.partition("=")[2] for a in args if a.startswith("-Dcatalina.base=")), "")
    if server == "tomcat" and home and not re.search(r"tomcat|catalina", home.lower()):
        return Guess(project=home)  # one installation serves many, each with its base
    if main_class.endswith(".java"):
        return Guess(generic.stem(main, "java"), project=_parent(main))
    return Guess(server or generic.java_class(main_class), project=".")


_RUBY_VALUED: Final = frozenset(("-I", "-r", "-C", "-E", "-x", "-e"))
_RUBY_SERVERS: Final = word_set(
    "puma pumactl unicorn unicorn_rails rails rackup thin passenger falcon iodine sidekiq bundle bundler rake "
    "resque solid_queue good_job spring foreman irb"
)


def _ruby(args: Sequence[str]) -> Guess:
    given, rest = options(args, _RUBY_VALUED)
    if "-e" in given or not rest:
        return Guess(project=".")
    name = generic.stem(rest[0], "rb|ru")
    if name not in _RUBY_SERVERS:
        return Guess(name, project=_parent(rest[0]))
    tag = _value(rest, ("--tag",))
    return Guess(tag, declared=bool(tag), project=_value(rest, ("--dir",)) or ".")


_PHP_VALUED: Final = word_set("-d -S -t -c -z -f -r -B -R -F -E --define --server --docroot --php-ini")
_PHP_TOOLS: Final = frozenset(("artisan", "console", "composer", "composer.phar", "symfony", "wp", "spark", "yii"))


def _php(args: Sequence[str]) -> Guess:
    given, rest = options(args, _PHP_VALUED)
    script = given.get("-f") or (rest[0] if rest else "")
    if "-S" in given or "--server" in given:
        root = given.get("-t") or given.get("--docroot") or ""
        return Guess(project=root or (_parent(script) if script else "."))
    name = generic.stem(script, "php|phar")
    if not script or name in _PHP_TOOLS:
        return Guess(project=_parent(script) if script.startswith("/") else ".")
    return Guess(name, project=_parent(script))


def _dotnet(args: Sequence[str]) -> Guess:
    operands = [a for a in args if not a.startswith("-")]
    assembly = next((a for a in operands if re.search(r"\.(dll|exe)$", a)), "")
    if assembly:
        return Guess(generic.stem(assembly, "dll|exe"), project=_parent(assembly))
    project = _value(args, ("--project", "-p"))
    return Guess(generic.stem(project.rstrip("/"), "[cfv]sproj"), project="." if not project else _parent(project))


def _erlang(args: Sequence[str]) -> Guess:
    name = _value(args, ("-sname", "-name", "--sname", "--name")).partition("@")[0]
    return Guess(name or _value(args, ("-s",)), project=".")


def _shell(args: Sequence[str]) -> Guess:
    given, rest = options(args, frozenset(("-o", "+o", "-O", "--rcfile", "--init-file")))
    inline = any(re.fullmatch(r"-[a-z]*c", flag) for flag in given)
    if inline or not rest or rest[0].startswith(("/dev/", "/proc/")):
        return Guess()
    return Guess(generic.stem(rest[0], "sh|bash|zsh"), project=_parent(rest[0]))


def _script(args: Sequence[str]) -> Guess:
    """Perl, Lua, Tcl, R ..."""
    for arg in args:
        if arg.startswith("--file="):  # what Rscript makes of its operand
            return _script([arg[7:]])
    given, rest = options(args, frozenset(("-I", "-e", "-E", "-l", "-f")))
    if given.keys() & {"-e", "-E"} or not rest:
        return Guess(project=".")
    name = generic.stem(rest[0], "pl|psgi|lua|tcl|[rR]|jl|groovy|scm")
    if name in ("plackup", "starman", "hypnotoad", "morbo", "starlet", "twiggy"):
        served = next((a for a in rest[1:] if a.endswith((".psgi", ".pl"))), "")
        return Guess(generic.stem(served, "psgi|pl"), project=_parent(served) if served else ".")
    return Guess(name, project=_parent(rest[0]))


def _value(args: Sequence[str], names: tuple[str, ...]) -> str:
    """The value of an option anywhere in args: `--name x` or `--name=x`."""
    for i, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option in names:
            return value if equals else (args[i + 1] if i + 1 < len(args) else "")
    return ""


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


_FAMILIES: Final[Mapping[str, Callable[[Sequence[str]], Guess]]] = {
    "python": python_command,
    "node": _node,
    "java": _java,
    "ruby": _ruby,
    "php": _php,
    "dotnet": _dotnet,
    "erlang": _erlang,
    "shell": _shell,
    "script": _script,
}
