"""The viewer makes readings of the latest collection, for /-/vcpus and for the page at /."""

from __future__ import annotations

from collections.abc import Callable

from exporter.metrics.own import OwnStatus
from exporter.page.page import PageData
from exporter.page.view import Health
from exporter.readings.document import encode
from exporter.readings.observer import Observer
from exporter.readings.reading import Reading, nothing
from exporter.service.collection import Collected, NothingCollected

_WAIT_SECONDS = 0.25
"""How long a reading waits for the names of VMs that it sees for the first time."""


class Viewer:
    """Collects, and makes readings with names. `status` returns the present status of the exporter."""

    def __init__(self, observer: Observer, status: Callable[[], OwnStatus]) -> None:
        self._observer = observer
        self._status = status
        self._collection: Collected = NothingCollected()

    def use(self, collection: Collected, observer: Observer) -> None:
        """Read this collection from now on."""
        self._collection, self._observer = collection, observer

    def document(self) -> list[bytes]:
        """Return the JSON document of all vCPUs, in pieces."""
        return encode(self._reading())

    def page_data(self) -> PageData:
        """Return the data of the page at /."""
        reading, status = self._reading(), self._status()
        up = status.collection.snapshot is not None
        return PageData(reading, Health(up, status.collection.errors, self._observer.lookup.pending))

    def _reading(self) -> Reading:
        """Return all vCPUs with names. Without a snapshot, the reading has no vCPU, and counting began at time 0."""
        self._collection.collect()
        self._observer.lookup.wait_known(_WAIT_SECONDS)
        status = self._status()
        snapshot = status.collection.snapshot
        if snapshot is None:
            return nothing(0, replay=status.replay)
        return self._observer.reading(snapshot, since_ns=status.since.ns, replay=status.replay)
