"""Measure bytes per recorded sample on the wire and on disk: `python3 -m tests.prometheus.fleet`, as root, 3 minutes.

Prometheus scrapes a demo under the names of many hosts and sends the recorded series by remote_write. Then the program
measures the size of a snapshot of the storage. docs/operations.md computes a fleet from these figures.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.prometheus.receiver import Receiver
from tests.support.paths import ROOT
from tests.support.prometheus import builds, exporters
from tests.support.prometheus.server import Prometheus

RULES = ROOT / "deploy/prometheus"
HOSTS = 20
SECONDS = 130
"""The rules are evaluated every second, so this time fills a chunk of the storage, which holds 120 samples."""


def measure(suite: str, form: str, folder: Path) -> None:
    """Print the bytes per sample of one server with one form of histograms."""
    build = builds.find(suite)
    if isinstance(build, builds.UnavailableError):
        sys.exit(str(build))
    configuration: dict[str, Any] = yaml.safe_load((RULES / "prometheus.example.yml").read_text())
    native = form == "native"
    with ExitStack() as stack:
        (folder / "demo").mkdir(parents=True)
        demo = exporters.Demo(folder / "demo", 1)
        stack.callback(demo.end)
        receiver = Receiver()
        stack.callback(receiver.close)
        (write,) = configuration["remote_write"]
        hosts = {"targets": [f"hypervisor-{number:05}:9939" for number in range(HOSTS)], "labels": {"rack": "r7"}}
        scrape = {
            "job_name": "kvm-exit",
            "scrape_interval": "1s",
            "static_configs": [hosts],
            "relabel_configs": [
                {"source_labels": ["__address__"], "target_label": "instance"},
                {"target_label": "__address__", "replacement": demo.address},
            ],
        }
        settings = {
            "global": {"evaluation_interval": "1s", "external_labels": {"prometheus": "kvm-1"}},
            "scrape_configs": [scrape],
            "remote_write": [{**write, "url": receiver.url}],
        }
        files = [RULES / name for name in ("recording.rules.yml", f"recording-{form}.rules.yml")]
        flags = ["--web.enable-admin-api"]
        server = Prometheus(
            build, demo.address, folder / "server", native=native, rules=files, settings=settings, flags=flags
        )
        stack.callback(server.stop)
        time.sleep(20)  # until every series exists
        start = (receiver.bytes, receiver.samples)
        time.sleep(SECONDS)
        sent, samples = receiver.bytes - start[0], receiver.samples - start[1]
        shipped = len(receiver.series)
        vms = {dict(labels).get("vm") for labels in receiver.series} - {None}
        of_hosts = sum("vm" not in dict(labels) for labels in receiver.series)
        (all_recorded,) = server.query('count({__name__=~"instance.*:.*"})')
        (all_raw,) = server.query('count({__name__=~".+", __name__!~"instance.*:.*"})')
        name = server.api("admin/tsdb/snapshot", skip_head="false")["name"]
        block = next((folder / "server/data/snapshots" / name).glob("0*"))
        stats = json.loads((block / "meta.json").read_text())["stats"]
        chunks = sum(path.stat().st_size for path in (block / "chunks").iterdir())
        index = (block / "index").stat().st_size
    print(f"Prometheus {build.text}, {form}: {HOSTS} hosts, {len(vms)} VMs and 5 vCPUs each")
    print(f"  raw series a host          {all_raw.value / HOSTS:.1f}")
    print(f"  recorded series a host     {all_recorded.value / HOSTS:.1f}")
    print(f"  sent series a host         {shipped / HOSTS:.1f}, of VMs {(shipped - of_hosts) / HOSTS:.1f}")
    print(f"  on the wire                {sent / samples:.1f} bytes a sample ({samples} samples)")
    print(f"  on disk, raw and recorded  {chunks / stats['numSamples']:.2f} bytes a sample ({stats['numSamples']})")
    print(f"                             {index / stats['numSeries']:.0f} bytes of index a series")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for form in ("classic", "native"):
            measure("sid", form, Path(temporary) / form)
