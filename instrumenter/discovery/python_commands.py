# SPDX-License-Identifier: Apache-2.0
"""What a Python command line says about the service it runs: script, module, or the application of a server.

In: arguments after the interpreter, or after the server's own name. Out: a `Guess`. The rule: the server (gunicorn,
uvicorn, celery ...) is never the service's name; what it serves is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from instrumenter.discovery import generic
from instrumenter.discovery.words import Guess, word_set

PYTHON_SERVERS: Final = word_set(
    "gunicorn gunicornc uvicorn hypercorn granian daphne waitress-serve waitress uwsgi uwsgi-core flask celery "
    "quart fastapi litestar robyn sanic django-admin django streamlit dramatiq rq arq huey_consumer nameko "
    "mod_wsgi-express chainlit bentoml meinheld twistd tornado aiohttp.web"
)
# Wrappers that run another program's script in the same process.
_WRAPPERS: Final = word_set(
    "opentelemetry-instrument ddtrace-run newrelic-admin coverage debugpy pdb cProfile memray pyinstrument "
    "scalene watchfiles watchmedo poetry pipenv uv hatch"
)
_NAME_OPTIONS: Final = ("-n", "--name", "--procname-prefix-spaced", "--procname-prefix", "--process-name")
_TARGET_OPTIONS: Final = ("-A", "--app", "--wsgi", "--module", "-w", "--wsgi-file", "--file", "--ini", "--yaml")
_FOLDER_OPTIONS: Final = ("--chdir", "--app-dir", "--pythonpath", "--working-dir", "--workdir")
_NAMED: Final = frozenset(("gunicorn", "gunicornc", "granian", "uwsgi", "uwsgi-core"))  # --name names the service
_VERBS: Final = frozenset(("run", "dev", "worker", "beat", "start", "serve", "server", "run-program", "exec", "flower"))
_TARGET: Final = re.compile(r"(?!(unix|fd|tcp|https?|ssl|systemd|egg|config):)[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(.*\))?")
_MODULE: Final = re.compile(r"[A-Za-z_][\w.]*")
# Flags of the servers that take no value, so that an operand may follow them.
_FLAGS: Final = word_set(
    "--reload --preload --daemon -D --factory --debug --proxy-headers --no-access-log --enable-stdio-inheritance "
    "--spew --access-log --use-colors --no-use-colors --no-server-header --no-date-header --master "
    "--enable-threads"
)


def python_command(args: Sequence[str]) -> Guess:
    """args: all after the interpreter."""
    kind, value, rest = _interpreter(args)
    if kind == "-c":
        helper = value.startswith(("from multiprocessing.", "from joblib.externals.loky", "from billiard."))
        return Guess(project=".", parent=helper)
    if not kind:
        return Guess(project=".")
    name = value if kind == "-m" else generic.stem(value, "pyw?|pyc|pyz|pex")
    if name in _WRAPPERS:
        return _wrapped(rest)
    if name in PYTHON_SERVERS:
        return python_server(name, rest)
    if kind == "-m":
        return Guess(generic.module(value), project=".")
    if name == "__main__":  # python /srv/checkout/__main__.py
        name = ""
    folder = value.rpartition("/")[0] or ("/" if value.startswith("/") else ".")
    return Guess(name, project=folder)


def _interpreter(args: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """("-c", code, rest), ("-m", module, rest), ("script", path, rest) or ("", "", ()). Options: python(1)."""
    i = 0
    while i < len(args) and args[i].startswith("-") and args[i] != "-":
        arg = args[i]
        i += 1
        if arg.startswith("--"):
            i += arg == "--check-hash-based-pycs"
            continue
        for j, letter in enumerate(arg[1:], 2):
            if letter in "cmWX":
                attached = arg[j:]
                value = attached or (args[i] if i < len(args) else "")
                i += not attached
                if letter in "cm":
                    return "-" + letter, value, args[i:]
                break
    if i >= len(args) or args[i] == "-":
        return "", "", ()
    return "script", args[i], args[i + 1 :]


def _wrapped(args: Sequence[str]) -> Guess:
    """The program that a wrapper runs: its first operand that is no verb."""
    for i, arg in enumerate(args):
        if arg == "-m":
            return python_command(args[i:])
        if arg.startswith("-") or arg in _VERBS or arg.partition(":")[2].isdigit():
            continue
        if generic.stem(arg, "py") in PYTHON_SERVERS:
            return python_server(generic.stem(arg, "py"), args[i + 1 :])
        if re.fullmatch(r"(.*/)?python[\d.]*", arg):
            return python_command(args[i + 1 :])
        return python_command(args[i:])
    return Guess(project=".")


def python_server(server: str, args: Sequence[str]) -> Guess:
    """args: all after the server's name."""
    folder, served = ".", ""
    operands: list[str] = []
    previous = ""
    for arg in args:
        option, equals, value = arg.partition("=")
        if not arg.startswith("-"):
            option, value = previous, arg
        if not arg.startswith("-") or equals:
            if option in _NAME_OPTIONS and server in _NAMED and value:
                return Guess(value.strip().rstrip(":"), declared=True)
            if option in _FOLDER_OPTIONS:
                folder = value
            elif option in _TARGET_OPTIONS and not value.isdigit():
                served = served or value
            elif not option or option in _FLAGS or _TARGET.fullmatch(value):
                operands.append(value)
        previous = "" if not arg.startswith("-") or equals else arg
    served = served or next((o for o in operands if _TARGET.fullmatch(o)), "") or _operand(operands)
    return _served(served, folder)


def _operand(operands: Sequence[str]) -> str:
    """`gunicorn -w 4 wsgi`, `fastapi run app/main.py`, `streamlit run dash.py`"""
    for operand in operands:
        if operand in _VERBS:
            continue
        if "/" in operand or operand.endswith(".py") or _MODULE.fullmatch(operand):
            return operand
    return ""


def _served(served: str, folder: str) -> Guess:
    if "/" in served or re.search(r"\.(py|wsgi|ini|ya?ml|xml|toml)$", served):
        name = generic.stem(served.partition(":")[0], "py|wsgi|ini|ya?ml|xml|toml")
        parent = served.rpartition("/")[0] or "."
        return Guess("" if name in ("uwsgi", "config") else name, project=parent)
    return Guess(generic.target(served), project=folder)
