"""The image is built and run by runc, with the options in deploy/README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from exporter import __version__
from tests.deploy.containers import documented
from tests.deploy.containers.engine import SECCOMP, Engine, wait_for
from tests.support.paths import ROOT

MODULES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "exporter").rglob("*.py"))
PAGE = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().decode())"
HEALTHCHECK = ["python3", "-I", "/usr/local/lib/kvm-exit-exporter/healthcheck.py"]

Start = Callable[..., str]


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """podman's seccomp profile with the two rules of Docker 23.0 and containerd 1.7: moby #43988, containerd #7301."""
    rules = json.loads(SECCOMP.read_text())
    names = {"bpf": "CAP_BPF", "perf_event_open": "CAP_PERFMON"}
    for rule in rules["syscalls"]:  # remove podman's own rules for these calls: they refuse the calls and would win
        rule["names"] = [name for name in rule["names"] if name not in names]
    for name, capability in names.items():
        rules["syscalls"].append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [],
                                  "includes": {"caps": [capability]}, "excludes": {}})  # fmt: skip
    path: Path = tmp_path_factory.mktemp("seccomp") / "seccomp.json"
    path.write_text(json.dumps(rules))
    return str(path)


@pytest.fixture
def options(profile: str) -> list[str]:
    """The documented options without the network options."""
    given = documented.without(documented.docker_run(), "--name", "--restart", "--publish")
    assert given[0] == "-d"
    assert given[-1] == "kvm-exit-exporter"
    return [*given[1:-1], f"--security-opt=seccomp={profile}"]


@pytest.fixture
def start(engine: Engine, image: str) -> Iterator[Start]:
    """Return run(options, *command): it starts a container and returns its id."""
    started: list[str] = []

    def run(options: list[str], *command: str) -> str:
        started.append(engine.run("-d", *options, image, *command).stdout.strip())
        return started[-1]

    yield run
    for container in started:
        engine("rm", "--force", "--time=5", container)


def page(engine: Engine, container: str, path: str = "/metrics") -> list[str]:
    done = engine("exec", container, "python3", "-I", "-c", PAGE, f"http://127.0.0.1:9939{path}", check=False)
    return done.stdout.splitlines() if not done.returncode else []


def rows(table: str) -> dict[str, str]:
    """Return the state of each row in the table of `check`."""
    return dict(re.findall(r"^(\S.*?)  +(ok|missing|not needed)  ", table, re.MULTILINE))


def status(container_pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{container_pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_the_image_has_labels_port_and_healthcheck(engine: Engine, image: str) -> None:
    inspected = engine.inspect("image", image)
    config = inspected["Config"]
    assert {key.rpartition(".")[2]: value for key, value in config["Labels"].items() if "opencontainers" in key} == {
        "title": "kvm-exit-exporter",
        "description": "Prometheus exporter for KVM exits",
        "licenses": "Apache-2.0",
        "version": __version__,
        "revision": "0123abc",
    }
    assert config["Entrypoint"] == ["kvm-exit-exporter"]
    assert config["ExposedPorts"] == {"9939/tcp": {}}
    assert inspected["Healthcheck"]["Test"] == ["CMD", *HEALTHCHECK]


def test_the_image_is_small(engine: Engine, image: str) -> None:
    megabytes = engine.inspect("image", image)["Size"] / 1e6
    print(f"{image}: {megabytes:.0f} MB")
    assert megabytes < 420  # MB: bookworm 369, trixie 402. A larger image has an unwanted package.


def test_the_image_has_the_byte_compiled_package_and_no_toolchain(engine: Engine, image: str) -> None:
    script = (
        "set -e; cd /usr/local/lib/python3*/dist-packages; find exporter -name '*.py' | sort; echo; "
        "find exporter -name '*.pyc' | wc -l; echo; "
        "for tool in pip pip3 gcc cc clang llc ld make curl; do command -v $tool || :; done; ls /src 2>&1 || :; "
        "ls /var/lib/apt/lists"
    )
    found = engine.run("--rm", "--entrypoint=/bin/sh", image, "-c", script).stdout.split("\n\n")
    assert found[0].splitlines() == MODULES
    assert int(found[1]) == len(MODULES)
    assert found[2].strip() == "ls: cannot access '/src': No such file or directory"


def test_the_image_prints_its_version(engine: Engine, image: str) -> None:
    assert engine.run("--rm", image, "--version").stdout == f"kvm-exit-exporter {__version__}\n"


def test_check_reports_nothing_missing_with_the_documented_options(
    engine: Engine, image: str, options: list[str]
) -> None:
    done = engine.run("--rm", *options, image, "check", check=False)
    assert [name for name, state in rows(done.stdout).items() if state == "missing"] == []
    assert rows(done.stdout)["trial load"] == "ok"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        (["--pid"], {"pid namespace"}),
        (["--volume"], {"tracefs", "kvm tracepoints", "sched tracepoints", "trial load"}),
    ],
)
def test_check_names_the_rows_of_a_missing_option(
    engine: Engine, image: str, options: list[str], left_out: list[str], missing: set[str]
) -> None:
    done = engine.run("--rm", *documented.without(options, *left_out), image, "check", check=False)
    assert {name for name, state in rows(done.stdout).items() if state == "missing"} == missing
    assert done.returncode == 1


@pytest.mark.parametrize("capability", ["BPF", "PERFMON"])
def test_check_names_a_missing_capability(engine: Engine, image: str, options: list[str], capability: str) -> None:
    where = options.index(capability)
    done = engine.run("--rm", *options[: where - 1], *options[where + 1 :], image, "check", check=False)
    assert {"capabilities", "trial load"} == {name for name, state in rows(done.stdout).items() if state == "missing"}
    assert f"--cap-add {capability} for a container" in " ".join(done.stdout.split())
    assert done.returncode == 1


def test_the_container_serves_with_the_documented_options(engine: Engine, options: list[str], start: Start) -> None:
    container = start(options)
    wait_for(lambda: "kvm_exit_exporter_up 1.0" in page(engine, container), "kvm_exit_exporter_up 1")
    assert engine("exec", container, *HEALTHCHECK).stdout == "http://127.0.0.1:9939/-/healthy: HTTP 200\n"
    assert page(engine, container, "/-/healthy")
    state = engine.inspect("container", container)
    assert state["HostConfig"]["ReadonlyRootfs"] is True
    assert state["HostConfig"]["Privileged"] is False
    assert status(state["State"]["Pid"])["NoNewPrivs"] == "1"


def test_the_exporter_becomes_its_user(engine: Engine, options: list[str], start: Start) -> None:
    container = start(options)
    wait_for(lambda: "kvm_exit_exporter_up 1.0" in page(engine, container), "kvm_exit_exporter_up 1")
    uid = engine("exec", container, "id", "-u", "kvm-exit-exporter").stdout.strip()
    now = status(engine.inspect("container", container)["State"]["Pid"])
    assert set(now["Uid"].split()) == {uid}
    assert uid != "0"
    assert int(now["CapBnd"], 16) == 0
    # Before Linux 5.19 CAP_BPF stays. No other capability may stay.
    assert int(now["CapEff"], 16) & ~(1 << 39) == 0


def test_the_container_starts_with_the_memory_of_the_manifest(engine: Engine, options: list[str], start: Start) -> None:
    """Compilation needs the most memory. If the limit is too low, the kernel kills the loader."""
    daemonset = yaml.safe_load((ROOT / "deploy/kubernetes/base/daemonset.yaml").read_text())
    limit = daemonset["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    container = start([*options, f"--memory={limit.replace('Mi', 'm')}", f"--memory-swap={limit.replace('Mi', 'm')}"])
    wait_for(lambda: "kvm_exit_exporter_up 1.0" in page(engine, container), "kvm_exit_exporter_up 1")
    assert engine.inspect("container", container)["State"]["OOMKilled"] is False


def test_a_container_that_does_not_answer_is_unhealthy(engine: Engine, image: str) -> None:
    done = engine.run("--rm", "--entrypoint=python3", image, *HEALTHCHECK[1:], check=False)
    assert done.stdout == "http://127.0.0.1:9939/-/healthy: [Errno 111] Connection refused\n"
    assert done.returncode == 1


def test_demo_names_the_recorded_vms(engine: Engine, options: list[str], start: Start) -> None:
    container = start(documented.without(options, "--volume"), "demo")

    def vms() -> list[tuple[str, str]]:
        return re.findall(
            r'^kvm_vm_info\{.*?vm="(.*?)".*?vmm="(.*?)"\} 1\.0$', "\n".join(page(engine, container)), re.M
        )

    wait_for(lambda: len(vms()) == 3, "three VMs")
    assert sorted(vms()) == [("db-1", "qemu"), ("idle-1", "qemu"), ("web-1", "qemu")]
    assert "kvm_exits_total{" in "\n".join(page(engine, container))
