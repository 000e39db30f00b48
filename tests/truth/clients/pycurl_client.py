# SPDX-License-Identifier: Apache-2.0
"""A program that asks with Debian's pycurl, whose libcurl uses GnuTLS. Usage: pycurl_client.py PLAN (h1|h2)

PLAN and what is printed are as requests_client.py has them.
"""

import json
import os
import sys
import time
from pathlib import Path

import pycurl  # type: ignore[import-untyped]  # Debian's own, of its own Python

VERSIONS = {"h1": pycurl.CURL_HTTP_VERSION_1_1, "h2": pycurl.CURL_HTTP_VERSION_2}
assert "GnuTLS" in pycurl.version, pycurl.version
curl = pycurl.Curl()
for line in Path(sys.argv[1]).read_text().splitlines():
    number, method, url, size, headers = json.loads(line)
    curl.reset()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.CAINFO, os.environ["SSL_CERT_FILE"])
    curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])
    curl.setopt(pycurl.WRITEFUNCTION, lambda data: None)
    curl.setopt(
        pycurl.HTTP_VERSION, {"h1": pycurl.CURL_HTTP_VERSION_1_1, "h2": pycurl.CURL_HTTP_VERSION_2}[sys.argv[2]]
    )
    if method == "HEAD":
        curl.setopt(pycurl.NOBODY, True)
    elif method == "POST":
        curl.setopt(pycurl.POSTFIELDS, "b" * size)
    start, began = time.time_ns(), time.perf_counter_ns()
    curl.perform()
    took = time.perf_counter_ns() - began
    print(json.dumps([number, curl.getinfo(pycurl.RESPONSE_CODE), start, took]))
