from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "deploy/container/healthcheck.py"


def test_hadolint_reports_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_dockerfile_has_no_url() -> None:
    assert not re.search(r"https?://", (ROOT / "Dockerfile").read_text())


def test_dockerignore_allows_exactly_the_copied_files() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    let_through = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(" ".join(copied).split()) == sorted(let_through)
    assert [path for path in let_through if not (ROOT / path).exists()] == []


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that answers with this status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param if self.path == "/-/healthy" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/-/healthy"
        server.shutdown()


def healthcheck(url: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT], env={"HEALTHCHECK_URL": url}, check=False, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(("answering", "exit_status"), [(200, 0), (401, 0), (500, 1), (503, 1)], indirect=["answering"])
def test_healthcheck_is_healthy_below_status_500(
    answering: str, exit_status: int, request: pytest.FixtureRequest
) -> None:
    status = request.node.callspec.params["answering"]
    assert healthcheck(answering) == (exit_status, f"{answering}: HTTP {status}\n")


@pytest.mark.parametrize("url", ["", "9939", "ftp://127.0.0.1/", "http://127.0.0.1:none/", "http:///-/healthy"])
def test_healthcheck_reports_an_invalid_url_on_one_line(url: str) -> None:
    code, said = healthcheck(url)
    assert code == 1
    assert said.startswith(f"{url}: ")
    assert said.count("\n") == 1
