# SPDX-License-Identifier: Apache-2.0
"""The resource attributes that a watched process was given in its environment.

In: OTEL_RESOURCE_ATTRIBUTES. Out: attributes. The rule is the specification's ("Specifying resource information via an
environment variable"): W3C Baggage without metadata, values percent-decoded as UTF-8; in case of any error the whole
value is discarded.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def resource_attributes(text: str) -> dict[str, str]:
    """`deployment.environment.name=prod,team=a%2Cb` -> {...: "prod", "team": "a,b"}; {} if malformed."""
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not part.strip():
            continue
        if not equals or not key or _BAD_ESCAPE.search(part):
            return {}
        try:
            found[unquote_to_bytes(key).decode("utf-8")] = unquote_to_bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            return {}
    return found
