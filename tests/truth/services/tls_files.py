# SPDX-License-Identifier: Apache-2.0
"""Files over TLS, by http.server. Usage: tls_files.py PORT FOLDER PEM"""

import functools
import ssl
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

port, folder, pem = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pem)
handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
with ThreadingHTTPServer(("127.0.0.1", int(port)), handler) as server:
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
