"""One page of an exporter: over a unix socket, over TLS, with a password, and whose process answered."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from exporter.terminal import client
from exporter.terminal.address import Address, of_socket
from exporter.terminal.client import Answer, Credentials, CredentialsError
from exporter.terminal.owner import owner

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext"


def _serve(server: socket.socket, tls: ssl.SSLContext | None = None, *, close: bool = False) -> list[bytes]:
    """Answer one request; return a list that gets the request. The connection stays open unless `close` is set."""
    requests: list[bytes] = []

    def run() -> None:
        connection, _ = server.accept()
        if tls:
            connection = tls.wrap_socket(connection, server_side=True)
        requests.append(connection.recv(65536))
        connection.sendall(ANSWER)
        if close:
            connection.close()
        requests.append(connection.recv(1) if not close else b"")

    threading.Thread(target=run, daemon=True).start()
    return requests


def _get(address: Address, access: Credentials = Credentials()) -> Answer:  # noqa: B008 - frozen
    return client.get(address, "/-/vcpus", access, seconds=20, max_bytes=100)


def test_a_unix_socket_is_asked_and_its_owner_is_known(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "web.sock"))
        server.listen()
        requests = _serve(server)
        assert _get(of_socket(str(tmp_path / "web.sock"))) == Answer(200, b"text", os.geteuid())
    assert requests[0].startswith(b"GET /-/vcpus HTTP/1.1\r\n")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_the_owner_of_a_local_port_is_known(host: str, family: socket.AddressFamily) -> None:
    with socket.create_server((host, 0), family=family) as server:
        _serve(server)
        assert _get(Address(host, server.getsockname()[1])) == Answer(200, b"text", os.geteuid())


def test_the_owner_of_an_ipv4_client_of_an_ipv6_socket_is_known() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        _serve(server)
        assert _get(Address("127.0.0.1", server.getsockname()[1])).uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_s_port_is_not_root_s() -> None:
    """Nor is it root's after the user has closed the connection: the kernel then writes uid 0, and no inode."""
    code = (
        "import os, socket\n"
        "os.setuid(65534)\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        "kept, _ = server.accept()\n"
        "print('accepted', flush=True)\n"
        "input()\n"
        "kept.close()\n"
        "print('closed', flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        ["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as connected:
            assert process.stdout.readline() == "accepted\n"
            assert owner(connected) == 65534
            process.stdin.write("\n")
            assert process.stdout.readline() == "closed\n"
            assert owner(connected) is None
        process.stdin.write("\n")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that is its own authority, and the file with its key."""
    folder = tmp_path_factory.mktemp("pki")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "3650"]
    subprocess.run(
        [*command, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    (folder / "login").write_text("alice:s3cret:x\n")
    return folder


def test_https_with_an_authority_a_certificate_and_a_password(pki: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki / "both.pem")
    tls.load_verify_locations(pki / "cert.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    access = client.credentials(pki / "cert.pem", pki / "both.pem", pki / "login")
    with socket.create_server(("127.0.0.1", 0)) as server:
        requests = _serve(server, tls)
        address = Address("127.0.0.1", server.getsockname()[1], scheme="https")
        assert _get(address, access) == Answer(200, b"text", os.geteuid())
    login = base64.b64encode(b"alice:s3cret:x").decode()
    assert f"\r\nAuthorization: Basic {login}\r\n".encode() in requests[0]


def test_a_certificate_of_an_unknown_authority_is_refused(pki: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki / "both.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: _handshake(server, tls), daemon=True).start()
        with pytest.raises(ssl.SSLCertVerificationError):
            _get(Address("127.0.0.1", server.getsockname()[1], scheme="https"))


def _handshake(server: socket.socket, tls: ssl.SSLContext) -> None:
    connection, _ = server.accept()
    try:
        tls.wrap_socket(connection, server_side=True)
    except OSError:
        connection.close()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ((Path("/none"), None, None), "cannot read /none: No such file or directory"),
        ((None, Path("/none"), None), "cannot read /none: No such file or directory"),
        ((None, None, Path("/none")), "cannot read /none: No such file or directory"),
        ((None, None, Path("/dev/zero")), "cannot read /dev/zero: it is not a regular file"),
        ((None, None, Path("/proc/version")), "/proc/version has no line USER:PASSWORD"),
    ],
)
def test_files_that_cannot_be_used_are_named(files: tuple[Path | None, ...], problem: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        client.credentials(*files)
    assert str(caught.value) == problem
