"""One scrape of /metrics, with functions that select samples."""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

ADDRESS = "127.0.0.1:9939"
SECONDS = 60

Labels = dict[str, str]


def get(path: str) -> str:
    """Return the body of one of the exporter's pages. Raises OSError."""
    with urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=SECONDS) as answer:
        body: bytes = answer.read()
    return body.decode()


class Page:
    """All samples of a scrape by name, and the times before and after the scrape (time.monotonic)."""

    def __init__(self) -> None:
        self.before = time.monotonic()
        self.text = get("/metrics")
        self.after = time.monotonic()
        self._samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    @classmethod
    def settled(cls) -> Page:
        """Scrape until lookups_pending is 0: until then the page lacks vCPUs whose VM is still being looked up."""
        deadline = time.monotonic() + SECONDS
        page = cls()
        while page.select("kvm_exit_exporter_lookups_pending") != [({}, 0.0)] and time.monotonic() < deadline:
            time.sleep(0.1)
            page = cls()
        return page

    def select(self, name: str, **labels: object) -> list[tuple[Labels, float]]:
        """Return the samples of a name that have these labels."""
        wanted = {(key, str(value)) for key, value in labels.items()}
        return [(found, value) for found, value in self._samples[name] if wanted <= set(found.items())]

    def by(self, label: str, name: str, **labels: object) -> dict[str, float]:
        """Return {value of label: value of sample}. Raises ValueError if two samples have the same label value."""
        samples = self.select(name, **labels)
        result = {found[label]: value for found, value in samples}
        if len(result) != len(samples):
            raise ValueError(f"{name}{labels}: two samples with one {label}: {samples}")
        return result

    def buckets(self, name: str, **labels: object) -> dict[tuple[tuple[str, str], ...], dict[float, float]]:
        """Return {labels without le: {upper bound: cumulative count}} of a histogram."""
        result: dict[tuple[tuple[str, str], ...], dict[float, float]] = defaultdict(dict)
        for found, value in self.select(f"{name}_bucket", **labels):
            series = tuple(sorted((key, text) for key, text in found.items() if key != "le"))
            result[series][float(found["le"])] = value
        return dict(result)
