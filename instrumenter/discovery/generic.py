# SPDX-License-Identifier: Apache-2.0
"""Words that name a file's or directory's role rather than a service, and what is left of a name without them.

In: names of scripts, modules, classes, jars, directories. Out: whether they, or which part of them, a person would
recognise. The rule: `app`, `server.js` or `Main` could be anybody's, so the name is looked for further up.
"""

from __future__ import annotations

import re
from typing import Final

from instrumenter.discovery.words import word_set

_FILES: Final = word_set(
    "__main__ a.out api app application asgi boot bootstrap bundle cli cmd config.ru console default entrypoint "
    "handler index init launch launcher local main manage mod program prog project public quarkus-run rails root "
    "router run runner script serve server service start startup site web webapp webserver worker wsgi www"
)
_DIRECTORIES: Final = word_set(
    "app apps application bin build classes cmd code current data deploy deployment deployments dist etc export "
    "home htdocs html http lib lib64 libexec local main node_modules opt out output package packages prod "
    "production public quarkus-app release releases root run sbin script scripts server share site site-packages "
    "source sources src srv staging standalone sys target tmp usr var venv .venv web work workdir workspace "
    "workspaces www"
)
_VERSION: Final = re.compile(r"v?\d+([.+_-]\w+)*|(?=[a-f]*\d)[0-9a-f]{7,64}")  # 20240101120000, 1.2.3, a commit
_JAR_VERSION: Final = re.compile(
    r"([-_.](v?\d[\w.+]*|SNAPSHOT|RELEASE|Final|GA|M\d+|RC\d*|all|fat|uber|exec|runner|shaded|standalone|boot|"
    r"jar-with-dependencies|with-dependencies|assembly))+$"
)


def is_generic(name: str) -> bool:
    """Whether a script, module or executable of this name says nothing about the service."""
    return not name or name.lower() in _FILES or name.isdigit()


def is_generic_directory(name: str) -> bool:
    return not name or name.lower() in _DIRECTORIES or _VERSION.fullmatch(name) is not None


def stem(path: str, extensions: str) -> str:
    """Base name without one of the extensions, a regular expression such as `py|pyc`."""
    return re.sub(rf"\.({extensions})$", "", path.replace("\\", "/").rpartition("/")[2])


def jar(path: str) -> str:
    """`/opt/foo-1.2.3-SNAPSHOT.jar` -> foo"""
    name = stem(path, "jar|war|ear")
    return _JAR_VERSION.sub("", name) or name


def java_class(qualified: str) -> str:
    """`com.acme.checkout.Main` -> checkout, `com.acme.CheckoutApplication` -> CheckoutApplication, else ""."""
    parts = qualified.split("$")[0].split(".")
    if not is_generic(parts[-1]) and parts[-1] not in ("JarLauncher", "WarLauncher", "PropertiesLauncher"):
        return parts[-1]
    if parts[-1].endswith("Launcher") and "springframework" in parts:
        return ""
    named = [p for p in parts[1:-1] if not is_generic(p)]  # without the top-level domain
    return named[-1] if named else ""


def target(text: str) -> str:
    """Of what a server serves: `shop.wsgi:application` -> shop, `src.cart.main:app` -> cart, `app:app` -> ""."""
    parts = text.partition(":")[0].split(".")
    return next((p for p in parts if not is_generic(p) and not is_generic_directory(p)), "")


def module(name: str) -> str:
    """Of `python -m`: `http.server` stays, `checkout.main` -> checkout, `app.main` -> ""."""
    if name in ("http.server", "xmlrpc.server"):
        return name
    parts = name.split(".")
    while parts and is_generic(parts[-1]):
        parts.pop()
    while parts and (is_generic(parts[0]) or is_generic_directory(parts[0])):
        parts.pop(0)
    return ".".join(parts)
