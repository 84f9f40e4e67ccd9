"""TLS between a Prometheus server and the exporter: certificates, versions, client certificates, renewal."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from exporter.web import connections
from exporter.web.server import WebServer
from exporter.web.watched import WatchedSettings
from tests.web.client import BODY, all_of, ask, connect, trusting
from tests.web.conftest import Serve
from tests.web.inside import Clock, only, until


def config(folder: Path, pki: Path, more: str = "", cert: str = "server") -> Path:
    """Write a web configuration and its certificate into `folder`.

    The configuration names the certificate by a relative path.
    """
    for kind in ("crt", "key"):
        shutil.copy(pki / f"{cert}.{kind}", folder / f"server.{kind}")
    shutil.copy(pki / "ca.crt", folder / "ca.crt")
    path = folder / "web.yml"
    path.write_text(f"tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n{more}")
    return path


def common_name(web: WebServer, context: ssl.SSLContext) -> str:
    with context.wrap_socket(connect(web), server_hostname="localhost") as raw:
        certificate = raw.getpeercert()
    assert certificate
    return str(certificate["subject"][0][0][1])


def test_the_server_serves_over_tls(serve: Serve, pki: Path, tmp_path: Path) -> None:
    web = serve(config(tmp_path, pki))
    assert web.scheme == "https"
    got = ask(web, tls=trusting(pki))
    assert (got.status, got.body) == (200, BODY)
    with trusting(pki).wrap_socket(connect(web), server_hostname="localhost") as raw:
        assert raw.version() == "TLSv1.3"


def test_a_large_page_is_served_over_tls(serve: Serve, pki: Path, tmp_path: Path) -> None:
    from tests.web.client import app

    web = serve(config(tmp_path, pki), routes=app(200_003))
    assert ask(web, tls=trusting(pki)).body == BODY * 200_003


def test_the_server_goes_on_after_a_client_rejects_the_certificate(serve: Serve, pki: Path, tmp_path: Path) -> None:
    web = serve(config(tmp_path, pki))
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(web, tls=ssl.create_default_context())
    assert ask(web, tls=trusting(pki)).status == 200


@pytest.mark.parametrize(
    "garbage", [b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + b"\xff" * 600, b""]
)
def test_the_server_goes_on_after_bytes_that_are_not_tls(
    serve: Serve, pki: Path, tmp_path: Path, garbage: bytes
) -> None:
    web = serve(config(tmp_path, pki))
    with connect(web) as raw:
        raw.sendall(garbage)
        assert ask(web, tls=trusting(pki)).status == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_the_minimum_and_maximum_version_are_enforced(serve: Serve, pki: Path, tmp_path: Path) -> None:
    only_13 = serve(config(tmp_path, pki, "  min_version: TLS13\n"))
    assert ask(only_13, tls=trusting(pki)).status == 200
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        ask(only_13, tls=trusting(pki, maximum_version=ssl.TLSVersion.TLSv1_2))
    only_12 = serve(config(tmp_path, pki, "  max_version: TLS12\n"))
    assert ask(only_12, tls=trusting(pki)).status == 200
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        ask(only_12, tls=trusting(pki, minimum_version=ssl.TLSVersion.TLSv1_3))
    old = serve(config(tmp_path, pki, "  min_version: TLS10\n  max_version: TLS11\n"))
    context = trusting(pki, minimum_version=ssl.TLSVersion.TLSv1)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    assert ask(old, tls=context).status == 200


def test_cipher_suites_and_curves_are_enforced(serve: Serve, pki: Path, tmp_path: Path) -> None:
    suite = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    more = f"  cipher_suites: [TLS_AES_128_GCM_SHA256, {suite}]\n  curve_preferences: [CurveP384]\n"
    web = serve(config(tmp_path, pki, more))
    context = trusting(pki, maximum_version=ssl.TLSVersion.TLSv1_2)
    with context.wrap_socket(connect(web), server_hostname="localhost") as raw:
        cipher = raw.cipher()
    assert cipher
    assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    context.set_ecdh_curve("prime256v1")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        ask(web, tls=context)
    only_13 = serve(config(tmp_path, pki, "  cipher_suites: [TLS_AES_128_GCM_SHA256]\n"))
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        ask(only_13, tls=trusting(pki, maximum_version=ssl.TLSVersion.TLSv1_2))
    assert ask(only_13, tls=trusting(pki)).status == 200


REFUSED = (ssl.SSLError, ConnectionResetError, BrokenPipeError)


@pytest.mark.parametrize("low", ["TLS10", "TLS12"])
def test_only_suites_with_forward_secrecy_are_offered_by_default(pki: Path, tmp_path: Path, low: str) -> None:
    context = WatchedSettings(config(tmp_path, pki, f"  min_version: {low}\n")).current.tls
    assert context
    suites = {cipher["name"] for cipher in context.get_ciphers()}
    assert {suite for suite in suites if not suite.startswith(("TLS_", "ECDHE-"))} == set()
    assert {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256"} <= suites


def test_client_certificates_are_verified(serve: Serve, pki: Path, tmp_path: Path) -> None:
    required = serve(
        config(tmp_path, pki, "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n")
    )
    assert ask(required, tls=trusting(pki, "prometheus")).body == BODY
    for client in ("", "stranger"):
        with pytest.raises(REFUSED):
            ask(required, tls=trusting(pki, client))
    optional = serve(config(tmp_path, pki, "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.crt\n"))
    for client in ("", "prometheus"):
        assert ask(optional, tls=trusting(pki, client)).body == BODY
    with pytest.raises(REFUSED):
        ask(optional, tls=trusting(pki, "stranger"))


def test_without_a_client_ca_the_authorities_of_the_system_verify_given_certificates(
    serve: Serve, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki / "ca.crt"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    web = serve(config(tmp_path, pki, "  client_auth_type: VerifyClientCertIfGiven\n"))
    for client in ("", "prometheus"):
        assert ask(web, tls=trusting(pki, client)).body == BODY
    with pytest.raises(REFUSED):
        ask(web, tls=trusting(pki, "stranger"))


@pytest.mark.parametrize(
    ("san", "allowed"),
    [
        ("prometheus.example", True),
        ("::1", True),
        ("spiffe://example/prometheus", True),
        ("example", False),
        ("127.0.0.1", False),
    ],
)
def test_the_option_client_allowed_sans_is_enforced(
    serve: Serve, pki: Path, tmp_path: Path, san: str, allowed: bool
) -> None:
    more = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
    web = serve(config(tmp_path, pki, f"{more}  client_allowed_sans: ['{san}', grafana.example]\n"))
    if allowed:
        assert ask(web, tls=trusting(pki, "prometheus")).body == BODY
        return
    with pytest.raises((*REFUSED, ConnectionError)):
        ask(web, tls=trusting(pki, "prometheus"))


@pytest.mark.usefixtures("by_hand")
def test_a_renewed_certificate_is_served_once_its_key_matches(
    serve: Serve, pki: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """First the certificate is replaced, then its key.

    The old pair is used until both match, and while a file is missing.
    """
    settings = WatchedSettings(config(tmp_path, pki))
    web, context = serve(settings), trusting(pki)
    assert common_name(web, context) == "server"
    with context.wrap_socket(connect(web), server_hostname="localhost") as kept:
        shutil.copy(pki / "renewed.crt", tmp_path / "server.crt")
        for _ in range(3):
            settings.check_files()
            assert common_name(web, context) == "server"
        (problem,) = [record.__dict__["fields"]["err"] for record in caplog.records]
        assert problem.startswith(f"{tmp_path}/web.yml:2: tls_server_config.cert_file: does not belong to the private")
        shutil.copy(pki / "renewed.key", tmp_path / "server.key")
        settings.check_files()
        assert common_name(web, context) == "renewed"
        kept.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    (tmp_path / "server.key").unlink()
    settings.check_files()
    assert common_name(web, context) == "renewed"
    assert ask(web, tls=context).status == 200


AS_NOBODY = """
import logging, os, sys, threading
from pathlib import Path
from exporter.common import logs
from exporter.web import watched
from exporter.web.watched import WatchedSettings

logs.setup("info", "logfmt", sys.stdout)
watched._POLL_SECONDS = 600.0
settings = WatchedSettings(Path(sys.argv[1]))
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
settings.watch()
for line in sys.stdin:
    settings.check_files()
    print("looked", flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop privileges")
def test_a_key_that_only_root_can_read_gives_one_warning(pki: Path) -> None:
    """The warning comes after privileges are dropped. It becomes an error only when a file changes."""
    with tempfile.TemporaryDirectory() as name:  # only root can read pytest's folders
        folder = Path(name)
        path = config(folder, pki)
        private = folder / "private"
        private.mkdir(0o700)
        shutil.move(folder / "server.key", private / "server.key")
        path.write_text(path.read_text().replace("server.key", "private/server.key"))
        folder.chmod(0o755)
        command = [sys.executable, "-c", AS_NOBODY, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            asked, said = process.stdin, process.stdout
            assert asked
            assert said

            def look() -> list[str]:
                print(file=asked, flush=True)
                return list(itertools.takewhile(lambda line: line != "looked\n", said))

            (warning,) = look()
            assert 'level=warn msg="a file of the web configuration cannot be read again' in warning
            assert f" file={private}/server.key " in warning
            assert look() == []
            shutil.copy(pki / "renewed.crt", folder / "server.crt")
            (error,) = look()
            assert "level=error" in error
            assert "tls_server_config.key_file" in error
            assert "Permission denied" in error
            assert look() == []


@pytest.mark.usefixtures("by_hand")
def test_a_reload_can_add_tls_but_not_remove_it(
    serve: Serve, pki: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A truncated file must not weaken access control."""
    path = tmp_path / "web.yml"
    path.write_text("")
    settings = WatchedSettings(path)
    web = serve(settings)
    assert ask(web).status == 200
    whole = config(tmp_path, pki).read_text()
    settings.check_files()
    assert ask(web, tls=trusting(pki)).status == 200
    for text in ("", "http_server_config: {http2: false}\n", whole[:30], whole[:3]):
        path.write_text(text)
        settings.check_files()
        assert ask(web, tls=trusting(pki)).status == 200
    assert weaker(caplog) == ["tls_server_config"] * 2


CHECKED = """\
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example]
"""


def weaker(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return, for each refused reload in the log, the options that the reload would have weakened."""
    fields = [record.__dict__["fields"] for record in caplog.records]
    return [field["weaker"] for field in fields if "weaker" in field]


@pytest.mark.usefixtures("by_hand")
def test_a_reload_can_add_client_checks_but_not_remove_them(
    serve: Serve, pki: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that lacks its last lines still names a certificate.

    With this file, the server would accept every client.
    """
    path = config(tmp_path, pki)
    bare = path.read_text()
    settings = WatchedSettings(path)
    web = serve(settings)
    any_name = CHECKED[: CHECKED.index("  client_allowed_sans")]
    if_given = any_name.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven")
    for checks in ("", if_given, any_name, CHECKED):
        path.write_text(bare + checks)
        settings.check_files()
        assert ask(web, tls=trusting(pki, "prometheus")).body == BODY
    for checks in ("", if_given, any_name):
        path.write_text(bare + checks)
        settings.check_files()
        for client in ("", "stranger", "server"):
            with pytest.raises(REFUSED):
                ask(web, tls=trusting(pki, client))
    kind, names = "tls_server_config.client_auth_type", "tls_server_config.client_allowed_sans"
    assert weaker(caplog) == [f"{names}, {kind}", f"{names}, {kind}", names]
    path.write_text(bare + CHECKED.replace("prometheus.example", "grafana.example"))
    settings.check_files()
    with pytest.raises(REFUSED):
        ask(web, tls=trusting(pki, "prometheus"))


def test_a_handshake_that_never_ends_is_cut_off(serve: Serve, pki: Path, tmp_path: Path) -> None:
    clock = Clock()
    web = serve(config(tmp_path, pki), clock=clock)
    with connect(web) as raw:
        stream = only(web)
        raw.sendall(b"\x16\x03\x01")
        clock.now += connections.REQUEST_SECONDS + 1
        assert raw.recv(1) == b""
        until(stream.closed)


def test_failed_handshakes_are_counted(serve: Serve, pki: Path, tmp_path: Path) -> None:
    web = serve(config(tmp_path, pki))
    for _ in range(7):
        with connect(web) as raw:
            raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            all_of(raw)
    until(lambda: web.connections.counts.closed["tls_handshake"] == 7)
    assert ask(web, tls=trusting(pki)).body == BODY
    assert web.connections.counts.responses[200] == 1


def test_a_tls_shutdown_by_the_client_ends_the_connection(serve: Serve, pki: Path, tmp_path: Path) -> None:
    """unwrap() waits for the server to answer the shutdown.

    The server closes the connection instead, so unwrap() raises SSLEOFError.
    """
    web = serve(config(tmp_path, pki))
    with trusting(pki).wrap_socket(connect(web), server_hostname="localhost") as raw:
        raw.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        start = time.monotonic()
        with contextlib.suppress(OSError):
            raw.unwrap()
        assert time.monotonic() - start < 15


def test_ipv6_and_unix_sockets_can_use_tls(serve: Serve, pki: Path, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    web = serve(config(tmp_path, pki), addresses=["[::1]:0", f"unix:{path}"])
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.connect(str(path))
    for plain in (connect(web), raw):
        with trusting(pki).wrap_socket(plain, server_hostname="localhost") as encrypted:
            encrypted.sendall(b"HEAD /metrics HTTP/1.0\r\n\r\n")
            assert encrypted.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
