# SPDX-License-Identifier: Apache-2.0
"""http.server over TLS, files of the working directory. Usage: tlsfiles.py PORT CERTIFICATE KEY"""

import functools
import ssl
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(*sys.argv[2:])
server = ThreadingHTTPServer(
    ("127.0.0.1", int(sys.argv[1])), functools.partial(SimpleHTTPRequestHandler, directory="files")
)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
