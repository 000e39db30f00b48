# SPDX-License-Identifier: Apache-2.0
"""A program that lives about 200 ms and makes one request. Usage: blink.py PORT TARGET"""

import http.client
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
connection.request("GET", sys.argv[2])
print(connection.getresponse().status)
