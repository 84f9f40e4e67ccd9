"""The web configuration file: which files are accepted, and how every problem of a refused file is reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from exporter.common.files import Stamp, stamp
from exporter.config.options import ConfigError
from exporter.web import watched
from exporter.web.rate_limit import TokenBucket
from exporter.web.toolkit import Settings, WebConfigFile
from exporter.web.watched import WatchedSettings
from tests.web.client import BODY, ask, trusting
from tests.web.conftest import Serve

DATA = Path(__file__).parent / "data"
HASH = "$2y$04$6MZ6HvjRvuxSbYPNMJQJFOxw9R4ZS2ZdzXBMaBRYWkAMkhVMTTvhq"
PAIR = "cert_file: server.crt, key_file: server.key"
TLS = f"tls_server_config: {{{PAIR}"
COST = "a bcrypt hash of cost 4 to 18"


@pytest.fixture
def folder(tmp_path: Path, pki: Path) -> Path:
    for name in ("server.crt", "server.key", "ca.crt", "renewed.key"):
        shutil.copy(pki / name, tmp_path / name)
    (tmp_path / "empty.crt").touch()
    return tmp_path


def read(folder: Path, text: str) -> Settings:
    path = folder / "web.yml"
    path.write_text(text)
    return WebConfigFile(path).settings()


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("good-*.yml")))
def test_good_files_are_accepted(folder: Path, name: str) -> None:
    settings = read(folder, (DATA / name).read_text())
    assert (settings.tls is not None) == (name in ("good-everything.yml", "good-minimal.yml"))
    if name == "good-everything.yml":
        assert list(settings.users) == ["alice", "42"]
        assert settings.client_sans == {"prometheus.example"}
        assert dict(settings.headers) == {
            "Strict-Transport-Security": "max-age=31536000",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "deny",
            "X-XSS-Protection": "1; mode=block",
            "Content-Security-Policy": "frame-ancestors 'none'",
        }


def test_certificates_in_the_configuration_file_itself_are_accepted(folder: Path) -> None:
    def block(name: str) -> str:
        return "|\n" + "".join(f"    {line}\n" for line in (folder / name).read_text().splitlines())

    pem = {name: block(name) for name in ("server.crt", "server.key", "ca.crt")}
    text = f"tls_server_config:\n  cert: {pem['server.crt']}  key: {pem['server.key']}  client_ca: {pem['ca.crt']}"
    assert read(folder, text + "  client_auth_type: VerifyClientCertIfGiven\n").tls
    with pytest.raises(ConfigError) as caught:
        read(folder, text + "  client_auth_type: VerifyClientCertIfGiven\n  key_file: server.key\n")
    (problem,) = caught.value.problems
    assert problem.endswith("tls_server_config.key: is set together with key_file; allowed is one of them")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tls_server_config: {}\nbasic_auth_user: {}",
         ["2: basic_auth_user: unknown key, did you mean basic_auth_users?"]),
        ("tls_server_config: {cert_file: server.crt}",
         ["1: tls_server_config.key_file: is missing; allowed is key_file or key"]),
        ("tls_server_config:\n  cert_file: none.crt\n  key_file: server.key",
         ['2: tls_server_config.cert_file: "none.crt" cannot be read: No such file or directory']),
        ("tls_server_config:\n  cert_file: server.crt\n  key_file: renewed.key",
         ["2: tls_server_config.cert_file: does not belong to the private key (key values mismatch)"]),
        (TLS + ", client_auth_type: RequireAnyClientCert}",
         ['1: tls_server_config.client_auth_type: "RequireAnyClientCert" accepts certificates without verification, '
          "which Python's ssl does not support; allowed is one of NoClientCert, VerifyClientCertIfGiven, "
          "RequireAndVerifyClientCert"]),
        (TLS + ", client_auth_type: RequireAndVerifyClientCert}",
         ["1: tls_server_config.client_auth_type: RequireAndVerifyClientCert needs client_ca_file"]),
        (TLS + ", client_ca_file: ca.crt}",
         ["1: tls_server_config.client_ca_file: is not used with client_auth_type NoClientCert"]),
        (TLS + ", client_ca_file: server.key, client_auth_type: VerifyClientCertIfGiven}",
         ["1: tls_server_config.client_ca_file: contains no certificate authority in PEM"]),
        (TLS + ", client_ca_file: empty.crt, client_auth_type: VerifyClientCertIfGiven}",
         ["1: tls_server_config.client_ca_file: is empty"]),
        (TLS + ", client_allowed_sans: [a]}",
         ["1: tls_server_config.client_allowed_sans: needs client_auth_type RequireAndVerifyClientCert: else a client "
          "can have no certificate"]),
        (TLS + ", min_version: TLS13, max_version: TLS12}",
         ["1: tls_server_config.min_version: TLS13 is above max_version TLS12"]),
        (TLS + ", max_version: TLS12, cipher_suites: [TLS_AES_128_GCM_SHA256]}",
         ["1: tls_server_config.cipher_suites: has no suite that max_version TLS12 can use"]),
        ("http_server_config:\n  headers:\n    X-Frame-Options: allow",
         ['3: http_server_config.headers.X-Frame-Options: "allow" is not allowed; '
          "allowed is one of deny, sameorigin"]),
        (f"basic_auth_users:\n  a: hunter2\n  d: $2y$31${HASH[7:]}",
         [f"2: basic_auth_users.a: is not a bcrypt hash; allowed is {COST}",
          f"3: basic_auth_users.d: has cost 31: a check would take minutes; allowed is {COST}"]),
        (f"basic_auth_users: {{'b:c': '{HASH}'}}",
         ["1: basic_auth_users.b:c: has a colon, which ends a name in HTTP"]),
        ("basic_auth_users: {a: }", [f"1: basic_auth_users.a: is null; allowed is {COST}"]),
        ("basic_auth_users: []", [f"1: basic_auth_users: is a list; allowed is a mapping of names to {COST}"]),
        ("rate_limit: {interval: 1, burst: 1}",
         ["1: rate_limit.interval: 1 has no unit (one second is 1s); "
          "allowed is a duration of Go such as 1s or 1.5s, or 0"]),
        (f"basic_auth_users: {{a: '{HASH}', a: '{HASH}'}}",
         ["1: basic_auth_users.a: given again, first on line 1; allowed is once"]),
        ("rate_limit: {interval: 1s}",
         ["1: rate_limit.interval: refuses every request without rate_limit.burst; allowed is a burst from 1"]),
        ("tls_server_config: [", ["1: not YAML: column 21: while parsing a flow node expected the "
                                  "node content, but found '<stream end>'"]),
    ],
)  # fmt: skip
def test_every_problem_is_reported_with_its_line(folder: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    problems = [problem.replace(f"{folder}/web.yml:", "", 1) for problem in caught.value.problems]
    assert problems == expected


def test_error_messages_contain_no_secret(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, f"tls_server_config: {{{PAIR}, key: 12345}}\nbasic_auth_users: {{alice: hunter2, bob: 271828}}\n")
    assert len(caught.value.problems) >= 3
    assert not any(secret in str(caught.value) for secret in ("12345", "hunter2", "271828"))


def test_an_encrypted_key_is_refused_without_a_prompt(folder: Path) -> None:
    command = ["openssl", "pkcs8", "-topk8", "-in", "server.key", "-out", "locked.key", "-passout", "pass:secret"]
    subprocess.run(command, cwd=folder, check=True)
    with pytest.raises(ConfigError, match="key_file: is encrypted; allowed is a private key without a passphrase"):
        read(folder, "tls_server_config: {cert_file: server.crt, key_file: locked.key}")


def test_users_without_the_module_bcrypt_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(ConfigError, match=r":1: basic_auth_users: needs Python's bcrypt: install python3-bcrypt$"):
        read(folder, f"basic_auth_users: {{alice: '{HASH}'}}")


def test_the_token_bucket_refills_up_to_its_burst_size() -> None:
    bucket = TokenBucket(interval=2.0, burst=3)
    assert [bucket.take(1000.0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(1002.0), bucket.take(1003.9), bucket.take(1004.0)] == [True, False, True]
    assert [bucket.take(5000.0) for _ in range(4)] == [True, True, True, False]


@pytest.mark.usefixtures("by_hand")
def test_the_options_headers_and_rate_limit_are_applied(serve: Serve, folder: Path) -> None:
    path = folder / "web.yml"
    headers = (
        "http_server_config: {headers: {X-Frame-Options: deny, Content-Security-Policy: \"default-src 'self'\"}}\n"
    )
    path.write_text(headers + "rate_limit: {interval: 1h, burst: 3}\n")
    settings = WatchedSettings(path)
    web = serve(settings)
    for asked in ("/", "/metrics", "/no-such-path"):
        got = ask(web, asked)
        assert got.headers["X-Frame-Options"] == "deny"
        assert got.headers.get_all("Content-Security-Policy") == ["default-src 'self'"]
        assert got.headers.get_all("X-Content-Type-Options") == ["nosniff"]
        assert "Server" not in got.headers
    assert ask(web).status == 429
    path.write_text("")
    settings.check_files()
    got = ask(web)
    assert (got.body, got.headers["X-Frame-Options"]) == (BODY, None)


@pytest.mark.usefixtures("by_hand")
def test_a_wrong_change_is_logged_once_and_the_old_configuration_stays_in_force(
    serve: Serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: '{HASH}'}}\n")
    settings = WatchedSettings(path)
    web = serve(settings)
    for text in ("basic_auth_users: {alice: secret}\n", ""):
        path.write_text(text)
        caplog.clear()
        for _ in range(3):
            settings.check_files()
            assert ask(web).status == 401
        assert len(caplog.records) == 1
    path.unlink()
    settings.check_files()
    assert ask(web).status == 401


@pytest.mark.usefixtures("by_hand")
def test_a_file_that_is_no_regular_file_is_refused_without_waiting_for_it(
    serve: Serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "web.yml"
    path.write_text(TLS + "}\n")
    settings = WatchedSettings(path)
    web, context = serve(settings), trusting(folder)
    for name, problem in (
        ("server.key", f'{path}:1: tls_server_config.key_file: "server.key" cannot be read: it is not a regular file'),
        ("web.yml", f"{path}: cannot read the configuration file: it is not a regular file"),
    ):
        caplog.clear()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        settings.check_files()
        assert [record.__dict__["fields"]["err"] for record in caplog.records] == [problem]
        assert ask(web, "/-/healthy", tls=context).status == 200


def test_storage_that_hangs_delays_no_request(serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "web.yml"
    path.write_text("")
    hangs, back = threading.Event(), threading.Event()

    def hanging(path: Path) -> Stamp:
        hangs.set()
        assert back.wait(20)
        return stamp(path)

    settings = WatchedSettings(path)
    monkeypatch.setattr(watched, "stamp", hanging)
    monkeypatch.setattr(watched, "_POLL_SECONDS", 0.01)
    path.write_text("http_server_config: {headers: {X-Frame-Options: deny}}\n")
    web = serve(settings)
    assert hangs.wait(20)
    assert ask(web).headers["X-Frame-Options"] is None
    back.set()
    settings.check_files()
    assert ask(web).headers["X-Frame-Options"] == "deny"


def test_config_check_also_checks_the_web_configuration(folder: Path) -> None:
    path = folder / "web.yml"
    path.write_text("tls_server_config: {cert_file: server.crt, key_file: renewed.key}\n")
    command = [sys.executable, "-m", "exporter", "serve", f"--web.config.file={path}"]
    said = subprocess.run([*command, "--config.check"], capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith(f"{path}:1: tls_server_config.cert_file: does not belong to the private key")
    said = subprocess.run(
        [*command, "--web.listen-address=127.0.0.1:0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    path.write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    said = subprocess.run([*command, "--config.check"], capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")
    assert f'config_file: "{path}"' in said.stdout
