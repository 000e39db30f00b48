# SPDX-License-Identifier: Apache-2.0
"""Where a process's TLS is seen in plain, or why not: made-up libraries, this machine's own, and broken files."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from elf_parts import broken, compiled, library
from running import ROOT

from instrumenter.binaries.elf import Elf
from instrumenter.binaries.mapped import MappedFile
from instrumenter.binaries.tls_libraries import Examined, Files, TlsView, tls_of
from instrumenter.binaries.tls_table import FAMILIES, OPENSSL

OPENSSL_NAMES = "SSL_read SSL_write SSL_do_handshake"
VERSION = 'const char version[] = "OpenSSL 3.0.20 7 Apr 2026";'
TLS_SOURCE = {
    "openssl": (OPENSSL_NAMES, ""),
    "gnutls": (
        "gnutls_record_recv gnutls_record_send gnutls_handshake",
        'const char v[] = "Enabled GnuTLS 3.7.9 log";',
    ),
}


def view(*paths: Path) -> TlsView:
    """Of a process that maps these files, the program first."""
    root = Files()

    def examine(file: MappedFile) -> Examined:
        direct = TestFile(file.pid, 0, 1, 0, "0:1", file.inode, file.path)
        return root.examine(direct)

    return tls_of([MappedFile(1, 0, 1, 0, "0:1", path.stat().st_ino, str(path)) for path in paths], examine)


class TestFile(MappedFile):
    """Opened by its path as it is."""

    __test__ = False

    def paths(self, root: str = "/proc") -> tuple[str, str]:
        return self.path, self.path


def source(functions: str, data: str = "", name: str = "libmade.so", *flags: str) -> Path:
    text = "".join(f"int {function}(int x) {{ return x; }}\n" for function in functions.split())
    return compiled(name, text + data, "-shared", "-fPIC", *flags)


def program() -> Path:
    return compiled("plain", "int main(void) { return 0; }\n")


def test_openssl_with_the_version_of_the_libcrypto_that_it_needs() -> None:
    crypto = source("crypto", VERSION, "libcrypto-1a.so.3", "-Wl,-soname,libcrypto-1a.so.3")
    other = source("crypto", VERSION.replace("3.0.20", "1.1.1w"), "libcrypto.so.1.1", "-Wl,-soname,libcrypto.so.1.1")
    tls = source(OPENSSL_NAMES, "", "libssl-3f.so.3", "-Wl,--no-as-needed", str(crypto))
    found = view(program(), other, crypto, tls)
    assert str(found) == "yes (OpenSSL 3.0.20 libssl-3f.so.3)"
    assert set(found.libraries[0].functions) == set(OPENSSL_NAMES.split())
    assert found.libraries[0].path == str(tls)
    assert found.libraries[0].build_id


def test_versions_side_by_side() -> None:
    one = source(OPENSSL_NAMES, VERSION, "libssl-one.so.3")
    two = source(OPENSSL_NAMES, VERSION.replace("3.0.20", "1.1.1w"), "libssl-two.so.1.1")
    assert str(view(program(), one, two)) == "yes (OpenSSL 3.0.20 libssl-one.so.3, OpenSSL 1.1.1w libssl-two.so.1.1)"


def test_gnutls_and_its_layer_with_names_of_openssl() -> None:
    tls = source(*TLS_SOURCE["gnutls"], "libgnutls-made.so")
    layer = source("SSL_read SSL_write SSL_connect", "", "libgnutls-openssl-made.so")
    assert str(view(program(), layer, tls)) == "yes (GnuTLS 3.7.9 libgnutls-made.so)"


def test_nspr_is_tls_only_with_nss() -> None:
    nspr = library("libnspr-made.so", "PR_Read PR_Write PR_Recv PR_Send")
    nss = source("SSL_ImportFD", 'const char v[] = "Version: NSS 3.87.1";', "libssl3-made.so")
    assert str(view(program(), nspr)) == "no (no TLS library is mapped)"
    assert str(view(program(), nspr, nss)) == "yes (NSS 3.87.1 libnspr-made.so)"


def test_a_program_with_other_probes_is_not_tls() -> None:
    nginx = source("ngx_event_connect_peer ngx_http_upstream_init", 'const char v[] = "nginx/1.22.1";', "nginx-made")
    found = view(nginx)
    assert str(found) == "no (no TLS library is mapped)"
    assert [(str(each), set(each.functions)) for each in found.libraries] == [
        ("nginx 1.22.1 nginx-made", {"ngx_event_connect_peer"})
    ]
    tls = source(OPENSSL_NAMES, VERSION, "libssl-one.so.3")
    assert str(view(nginx, tls)) == "yes (OpenSSL 3.0.20 libssl-one.so.3)"


NO = [
    ('const char f[] = "third_party/boringssl/src/ssl/ssl_lib.cc";', "BoringSSL in libmade.so has no symbols"),
    ('const char f[] = "../ssl/ssl_lib.c";' + VERSION, "OpenSSL 3.0.20 in libmade.so has no symbols"),
    ('const char f[] = "/registry/rustls-0.23.5/src/conn.rs";', "rustls 0.23.5 in libmade.so has no functions"),
    (
        "int mbedtls_ssl_read(void) { return 0; } int mbedtls_ssl_write(void) { return 0; }",
        "Mbed TLS in libmade.so has no",
    ),
    ('const char f[] = "/registry/rustls-pki-types-1.1.0/src/a.rs";', "no TLS library is mapped"),
    (VERSION, "no TLS library is mapped"),
]


@pytest.mark.parametrize(("text", "reason"), NO, ids=[reason[:20] for _, reason in NO])
def test_no_has_a_reason(text: str, reason: str) -> None:
    found = view(program(), source("other", text))
    assert not found.visible
    assert str(found).startswith(f"no ({reason}")


def test_what_is_not_seen_beside_what_is() -> None:
    hidden = source("other", 'const char f[] = "src/ssl/ssl_lib.cc";', "cygrpc-made.so")
    tls = source(OPENSSL_NAMES, VERSION, "libssl-one.so.3")
    java = library("libjvm.so", "JNI_CreateJavaVM")
    assert str(view(program(), tls, hidden)) == (
        "yes (OpenSSL 3.0.20 libssl-one.so.3); not seen: BoringSSL in cygrpc-made.so has no symbols"
    )
    assert str(view(java)).startswith("no (Java's own TLS")


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELF")
    assert str(view(tmp_path / "program")) == "no (program: not an ELF file; no TLS library is mapped)"
    assert str(tls_of([], lambda file: pytest.fail("nothing to examine"))).startswith("no (its memory map")
    gone = tls_of([MappedFile(1, 0, 1, 0, "0:1", 5, "/gone")], Files(str(tmp_path)).examine)
    assert str(gone) == "no (gone: cannot be opened; no TLS library is mapped)"


def test_this_python() -> None:
    """A child with `ssl`: the library that it says it has."""
    code = "import ssl, sys; print(1, flush=True); sys.stdin.read()"
    files = Files()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        first, second = files.tls(child.pid), files.tls(child.pid)
        child.communicate()
    assert first == second
    assert [library.version for library in first.libraries] == [ssl.OPENSSL_VERSION.split()[1]]
    assert {"SSL_read", "SSL_write", "SSL_read_ex", "SSL_write_ex"} <= set(first.libraries[0].functions)
    assert str(files.tls(child.pid)).startswith("no (its memory map")


def test_the_wheel_of_grpcio() -> None:
    directory = Path(grpc.__file__).parent / "_cython"
    (path,) = directory.glob("cygrpc*.so")
    assert str(view(program(), path)) == f"no (BoringSSL in {path.name} has no symbols)"


def test_broken_files_are_no_failure(tmp_path: Path) -> None:
    good = source(OPENSSL_NAMES, VERSION + 'const char f[] = "/rustls-0.23.5/src/";', "libssl-fuzz.so").read_bytes()
    for i, data in enumerate(broken(good, 200)):
        path = tmp_path / str(i)
        path.write_bytes(data)
        assert str(view(path)).startswith(("yes (", "no ("))
        path.unlink()


def test_the_table() -> None:
    keys = [family.key for family in FAMILIES]
    assert len(keys) == len(set(keys))
    for family in FAMILIES:
        assert family.required
        assert bool(family.functions) != bool(family.unsupported)
    assert set(OPENSSL.required) <= set(OPENSSL.functions)


def test_cached_by_identity_and_read_again_when_changed(tmp_path: Path) -> None:
    path = tmp_path / "libssl.so"
    path.write_bytes(source(OPENSSL_NAMES, VERSION, "libssl-one.so.3").read_bytes())
    files = Files()
    file = TestFile(1, 0, 1, 0, "0:1", path.stat().st_ino, str(path))
    first = files.examine(file)
    assert files.examine(file).tls is first.tls
    with path.open("ab") as end:
        end.write(b"\0")
    assert files.examine(file).tls is not first.tls
    with Elf(str(ROOT / "build" / "elf" / "libssl-one.so.3")) as elf:
        assert elf.build_id == first.tls.build_id
