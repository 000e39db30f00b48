# SPDX-License-Identifier: Apache-2.0
"""A program that asks by a build of libcurl. Usage: libcurl_client.py LIBRARY CA URL...; prints each status.

Loads it when the first line comes on standard input: what the agent knows of this process by then has no TLS in it.
Ends with the end of its input.
"""

import ctypes
import sys

CURLOPT_URL, CURLOPT_CAINFO, CURLOPT_WRITEFUNCTION, CURLINFO_RESPONSE_CODE = 10002, 10065, 20011, 0x200002
DISCARD = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)


def main() -> None:
    library, ca, *urls = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    curl = ctypes.CDLL(library)
    curl.curl_easy_init.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(curl.curl_easy_init())
    discard = DISCARD(lambda _, size, count, __: size * count)
    status = ctypes.c_long()
    curl.curl_easy_setopt(handle, CURLOPT_CAINFO, ca.encode())
    curl.curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, discard)
    for url in urls:
        curl.curl_easy_setopt(handle, CURLOPT_URL, url.encode())
        code = curl.curl_easy_perform(handle)
        if code:
            sys.exit(f"{url}: libcurl's error {code}")
        curl.curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, ctypes.byref(status))
        print(status.value, flush=True)
    curl.curl_easy_cleanup(handle)
    sys.stdin.readline()


main()
