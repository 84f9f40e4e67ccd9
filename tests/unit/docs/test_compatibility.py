"""docs/compatibility.md has a row for everything that the tests run, says truly what CI runs, and names each date."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from exporter.kernel.isa.registry import BY_MACHINE
from exporter.naming.vmm.registry import VMMS
from tests.deploy.packages.releases import RELEASES
from tests.support.paths import ROOT
from tests.support.prometheus import builds

TEXT = (ROOT / "docs/compatibility.md").read_text()
PARTS = (ROOT / ".ci/parts").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
DATE = re.compile(r"20\d\d-\d\d-\d\d")

Row = dict[str, str]


def table(heading: str, first: str) -> list[Row]:
    """Return the rows of the table whose first column is `first`, in the section `heading`, by their columns' names."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = section[section.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|---")]
    return [dict(zip(cells[0], row)) for row in cells[1:]]


@pytest.fixture(scope="module")
def hosts() -> dict[str, Any]:
    """The hosts of tests/e2e, whose modules import each other by their bare names."""
    sys.path.insert(0, str(ROOT / "tests/e2e"))
    try:
        import hosts  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
        sys.modules.pop("apt", None)  # the name of a package of Debian
    found: dict[str, Any] = hosts.HOSTS
    return found


def in_ci(host: str) -> bool:
    """True if a part of .ci/run boots this host."""
    return bool(re.search(rf"make (e2e-matrix HOSTS=(\S+,)?{host}|e2e-{host})$", PARTS, re.MULTILINE))


def test_every_emulated_host_has_a_row_with_its_kernel(hosts: dict[str, Any]) -> None:
    rows = table("Hosts with guests", "host")
    assert sorted(row["host"] for row in rows) == sorted(f"`{name}`" for name in hosts)
    for row in rows:
        host = hosts[row["host"].strip("`")]
        assert re.match(rf"{re.escape(host.linux)}\b", row["Linux"]), row
        assert ("Bochs" in row["CPU"]) == host.bochs, row
        assert row["run"] == ("CI" if in_ci(host.name) else "by hand"), row
        assert DATE.fullmatch(row["date"]), row


def test_every_distribution_of_the_tests_has_a_row() -> None:
    rows = {row["distribution"].split(", ")[-1]: row for row in table("Distributions", "distribution")}
    for suite in RELEASES:
        assert (rows[suite]["run"], DATE.fullmatch(rows[suite]["date"]) is not None) == ("CI", True)
        assert rows[suite]["package"].startswith("installs and serves")
    (suites,) = re.findall(r"^DISTROS \?= (.*)$", MAKEFILE, re.MULTILINE)
    assert {name for name, row in rows.items() if "in a chroot" in row["suites"]} == set(suites.split())
    for part in ("make distros DISTROS_TESTS=tests/kernel", "make deb-test", "make rpm-test"):
        assert part in PARTS


def test_every_instruction_set_has_a_row() -> None:
    rows = table("Kernels and processors", "processor")
    assert [row["processor"] for row in rows if not row["state"].startswith("does not")] == [
        *("aarch64", "AMD, SVM", "Intel, VMX", "riscv64"),
    ]
    assert set(BY_MACHINE) == {"aarch64", "x86_64", "riscv64"}


def test_every_vmm_has_a_row() -> None:
    rows = [row["`vmm`"].strip("`") for row in table("VMMs", "`vmm`")]
    assert sorted(rows) == sorted([*(vmm.label for vmm in VMMS), "other programs"])


def test_every_prometheus_of_the_tests_has_a_row() -> None:
    rows = [row for row in table("Prometheus", "suite") if row["suite"]]
    assert [row["suite"] for row in rows] == [*builds.WITHOUT_NATIVE, *builds.SUITES]
    assert {row["run"] for row in rows} == {"CI"}
    assert all(DATE.fullmatch(row["date"]) for row in rows)
    assert re.search(r"\bmake test$", PARTS, re.MULTILINE)  # it runs tests/prometheus
    for row in rows:
        found = builds.cached(row["suite"])
        if found:  # the server is on this machine already
            assert found.text.split("+")[0] == row["Prometheus"]


def test_everything_that_was_run_has_a_date() -> None:
    """A row of a processor says only that its hosts are emulated: their rows have the dates."""
    for line in TEXT[TEXT.index("\n## ") :].splitlines():
        if re.search(r"\b(CI|by hand)\b(?!, emulated)", line) and line.startswith("|"):
            assert DATE.search(line), line


def test_the_readme_says_what_has_run_on_real_hardware() -> None:
    """The sentence is on the first screen. While this page has no run on real hardware, the README says so too."""
    first = " ".join((ROOT / "README.md").read_text().split("\n## ")[0].split())
    assert "Nothing has run on real hardware yet" in first
    assert "**No test has run on real hardware.**" in TEXT
    assert "(docs/compatibility.md)" in first
