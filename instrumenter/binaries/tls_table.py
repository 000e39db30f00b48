# SPDX-License-Identifier: Apache-2.0
"""The TLS libraries that are known, a row for each family: how to tell one, and which functions get probes.

Read by tls_files.py. The rule: a family is recognised by functions that only it defines or, where it has no symbols,
by a text that its own source puts into the program; never by a file's name, which packagers change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Why(StrEnum):
    """Why a library tells nothing, as counters say it: stingless.libraries.skipped."""

    UNSUPPORTED = "unsupported"  # there are no probes for it
    NO_SYMBOLS = "no_symbols"  # where its functions are is not known
    TOO_OLD = "too_old"
    UNKNOWN_LAYOUT = "unknown_layout"  # its version was not measured, or it was built in another way
    GENERATED_CODE = "generated_code"  # there is no file to probe
    UNREADABLE = "unreadable"
    REFUSED = "refused"  # the kernel takes no probe there


@dataclass(frozen=True, slots=True)
class Lack:
    """A library that is in a file and gives nothing. reason: a clause that goes on after its name."""

    title: str
    version: str
    why: Why
    reason: str


@dataclass(frozen=True, slots=True)
class Family:
    """required: functions that must all be defined for a file to be of this family; exclude those that only look so.

    functions: where probes go, as far as a version has them. part_of: a function that some file of the process must
    define, as without it these functions are no TLS. unsupported: why nothing is probed though symbols are there.
    """

    key: str
    title: str
    required: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    part_of: str = ""
    unsupported: str = ""


# SSL_write_ex2: 3.3 and newer. SSL_sendfile: 3.0 and newer. SSL_do_handshake tells libssl from libgnutls-openssl, whose
# SSL_read is a layer over gnutls_record_recv and would be seen twice. BoringSSL, AWS-LC and LibreSSL have these names.
OPENSSL: Final = Family(
    "openssl",
    "OpenSSL",
    ("SSL_read", "SSL_write", "SSL_do_handshake"),
    (
        *("SSL_read", "SSL_read_ex", "SSL_peek", "SSL_peek_ex"),
        *("SSL_write", "SSL_write_ex", "SSL_write_ex2", "SSL_sendfile"),
        *("SSL_do_handshake", "SSL_shutdown", "SSL_free"),
        *("SSL_set_fd", "SSL_set_rfd", "SSL_set_wfd", "SSL_set_bio", "SSL_set0_rbio", "SSL_set0_wbio", "SSL_get_rbio"),
        *("SSL_version", "SSL_get_version", "SSL_get_servername", "SSL_get_fd", "SSL_is_server", "SSL_ctrl"),
    ),
)
GNUTLS: Final = Family(
    "gnutls",
    "GnuTLS",
    ("gnutls_record_recv", "gnutls_record_send", "gnutls_handshake"),
    (
        *("gnutls_record_recv", "gnutls_record_recv_packet", "gnutls_record_recv_seq"),
        *("gnutls_record_send", "gnutls_record_send2", "gnutls_record_send_range", "gnutls_record_send_file"),
        *("gnutls_handshake", "gnutls_bye", "gnutls_deinit"),
        *("gnutls_transport_set_int2", "gnutls_transport_set_ptr", "gnutls_transport_set_ptr2"),
        *("gnutls_protocol_get_version", "gnutls_server_name_get", "gnutls_server_name_set"),
    ),
)
# NSPR's calls also read files and plain sockets; with NSS in the process some of its descriptors are TLS.
NSS: Final = Family(
    "nss",
    "NSS",
    ("PR_Read", "PR_Write", "PR_Recv", "PR_Send"),
    ("PR_Read", "PR_Write", "PR_Recv", "PR_Send", "PR_Close", "PR_FileDesc2NativeHandle", "PR_ImportTCPSocket"),
    part_of="SSL_ImportFD",
)
GO: Final = Family("go", "Go crypto/tls", functions=("crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"))
# No TLS: a program that says for which request it takes a connection (probes/include/upstream.h).
NGINX: Final = Family(
    "nginx", "nginx", ("ngx_event_connect_peer", "ngx_http_upstream_init"), ("ngx_event_connect_peer",)
)

FAMILIES: Final = (
    OPENSSL,
    GNUTLS,
    NSS,
    NGINX,
    Family("mbedtls", "Mbed TLS", ("mbedtls_ssl_read", "mbedtls_ssl_write"), unsupported="has no probes yet"),
    Family("wolfssl", "wolfSSL", ("wolfSSL_read", "wolfSSL_write"), unsupported="has no probes yet"),
    Family("s2n", "s2n-tls", ("s2n_recv", "s2n_send"), unsupported="has no probes yet"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """What a program's read-only data tells: where `needle` is, `pattern` gives the version (group 1), if any.

    code: the library itself is in that file, not only something that knows its name; reason: why it gives nothing then.
    """

    family: str
    title: str
    needle: bytes
    pattern: bytes = b""
    code: bool = False
    why: Why = Why.NO_SYMBOLS
    reason: str = "has no symbols"


# The paths of source files come from assertions and error reports; builds without file names do not have them. Which of
# rustls's functions the compiler leaves, and what they take, is of each build (docs/troubleshooting.md).
TEXTS: Final = (
    Text("openssl", "BoringSSL", b"ssl/ssl_lib.cc\0", code=True),
    Text("openssl", "OpenSSL", b"ssl/ssl_lib.c\0", code=True),
    Text(
        "openssl", "OpenSSL", b"OpenSSL ", rb"OpenSSL (\d+\.\d+\.\d+[a-z]?)[-+\w]*(?: FIPS)? +\d\d? [A-Z][a-z]{2} \d{4}"
    ),
    Text("openssl", "LibreSSL", b"LibreSSL ", rb"LibreSSL (\d+\.\d+\.\d+)\0"),
    Text("gnutls", "GnuTLS", b"GnuTLS ", rb"GnuTLS (\d+\.\d+\.\d+)"),
    Text("nginx", "nginx", b"nginx/", rb"nginx/(\d+\.\d+\.\d+)"),
    Text("nss", "NSS", b"Version: NSS ", rb"Version: NSS (\d[\d.]*\d)"),
    Text(
        "rustls",
        "rustls",
        b"/rustls-",
        rb"/rustls-(\d+\.\d+\.\d+)[-\w.]*/src/",
        code=True,
        why=Why.UNSUPPORTED,
        reason="has no functions that are the same in every build",
    ),
    Text("s2n", "s2n-tls", b"tls/s2n_recv.c\0", code=True),
    Text("mbedtls", "Mbed TLS", b"ssl_msg.c\0", rb"[Mm]bed ?TLS (\d+\.\d+\.\d+)"),
)
