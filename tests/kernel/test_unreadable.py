"""The daemon runs in a checkout that only root can read.

After it has dropped root, it opens no file of the checkout.
"""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import bcrypt
import pytest

from tests.support.readable import copy_package
from tests.support.services import FakeSystemd, Service

# A sitecustomize module, which Python runs when it starts. After the drop of root, it reports each import and each
# opened file of the checkout.
WATCH = """
import os, sys

def watch(event, arguments):
    if os.geteuid() == 0 or event not in ("open", "import"):
        return
    name = os.fsdecode(arguments[0]) if isinstance(arguments[0], (bytes, str)) else ""
    if event == "import" and name.partition(".")[0] in sys.stdlib_module_names:
        return
    if event == "import" or name.startswith({checkout!r}):
        os.write(2, f"after the drop: {{event}} {{name}}\\n".encode())

sys.addaudithook(watch)
"""
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

Start = Callable[..., Service]


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of the configuration files. The exporter reads these files again after the drop of root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def start(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return start(command, *options). It starts the exporter of a copy that only root can read."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    copy_package(checkout)
    checkout.chmod(0o700)
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(checkout=f"{checkout}/"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    password = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (folder / "web.yaml").write_text(f"basic_auth_users: {{alice: '{password}'}}\n")
    (folder / "config.yaml").write_text(
        f"lock_file: {folder}/run/lock\nrun_as: nobody\n"
        f"web: {{listen_address: ['127.0.0.1:0'], config_file: {folder}/web.yaml, enable_lifecycle: true}}\n"
    )
    with ExitStack() as stack:

        def begin(command: str, **options: object) -> Service:
            service = Service(
                *(command, f"--config.file={folder}/config.yaml"),
                prefix=["env", f"--chdir={checkout}"],
                **options,  # type: ignore[arg-type]
            )
            stack.callback(service.end)
            return service

        yield begin


def _ask(service: Service, path: str, method: str = "GET", **headers: str) -> None:
    address = service.logged(r"msg=listening address=(\S+)")[1]
    headers["Authorization"] = "Basic YWxpY2U6c2VjcmV0"  # alice:secret
    request = urllib.request.Request(f"http://{address}{path}", method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200
        assert response.read()


def _use(service: Service) -> None:
    """Request every path, reload, and end the service. The log must have no error."""
    for path in ("/metrics", "/", "/-/overview", "/-/vcpus", "/-/healthy"):
        _ask(service, path)
    _ask(service, "/metrics", Accept=PROTOBUF, **{"Accept-Encoding": "gzip"})
    _ask(service, "/-/reload", "POST")
    assert service.end() == 0
    assert not [line for line in service.log if "level=error" in line or not line.startswith("ts=")]


@pytest.mark.kvm
def test_serve_reads_no_file_of_the_checkout_after_it_drops_root(start: Start, folder: Path) -> None:
    """This is checked at the first start, and at a restart that continues with the same program."""
    systemd = FakeSystemd(f"{folder}/notify")
    for kept in ("false", "true"):
        service = start("serve", systemd=systemd)
        service.logged("privileges dropped.*user=nobody")
        service.logged(f"msg=attached kept_over_restart={kept}")
        _use(service)
    systemd.close()


def test_demo_reads_no_file_of_the_checkout_after_it_drops_root(start: Start) -> None:
    service = start("demo")
    service.logged("privileges dropped.*user=nobody")
    service.logged("replaying")
    _use(service)
