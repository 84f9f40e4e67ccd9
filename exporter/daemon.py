"""The daemon: wires every room together, and is the only module that knows them all. service.py runs it."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from exporter import document, host, program, selfmetrics, web
from exporter.config import Config
from exporter.exposition.buckets import Classic
from exporter.exposition.page import Exposition, Page, Shape
from exporter.logs import event
from exporter.metrics import Detail, Identified, Metrics
from exporter.reasons import Reasons
from exporter.records import ThreadKey
from exporter.replay import recording
from exporter.replay.player import Player
from exporter.series import Reasons as ShownReasons
from exporter.snapshot import Collector
from exporter.vms import Lookup
from exporter.vms.vcpu import nameable

log = logging.getLogger("exporter")

_SETTLE_SECONDS = 0.25
"""How long a scrape waits for the names of VMs it sees for the first time. Later ones wait for nobody."""

_KVM_POLL_SECONDS = 2.0
_DROP_REMEDIES = {
    "no_slot": "raise limits.vcpus and restart",
    "no_cell": "raise limits.cells and restart",
    "chain_full": "none: a vCPU has more than eight reasons of one hash; please report it",
}


class StartError(Exception):
    """The service cannot start; one line for the operator."""


class Daemon:
    """One running exporter. start() it, wait() for its end, close() it."""

    def __init__(self, config: Config, *, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> None:
        self._config = config
        self._sysfs = sysfs
        self._state = selfmetrics.State(config_loaded=time.time())
        self._registry = selfmetrics.registry(self._state, str(proc))
        self._lookup = Lookup(proc)
        self._reasons = Reasons()
        self._metrics = self._new_metrics(self._reasons)
        self._exposition = Exposition(_shape(config), self._registry)
        self._rendering = threading.Lock()
        self._loaded: program.Loaded | None = None
        self._collector: Collector | None = None
        self._since_ns = 0
        self._player: Player | None = None
        self._vanished: list[ThreadKey] = []
        self._vcpu_ids = False
        self._warned: set[str] = set()
        self._collecting = threading.Lock()
        self._stop = threading.Event()
        self._lock_file: int | None = None
        self._web = web.Web(
            config.web.listen_address,
            settings=web.Watched(Path(config.web.config_file)) if config.web.config_file else None,
            max_requests=config.web.max_requests,
        )

    def start(self, notice: str = "", reload: web.Reload | None = None) -> None:
        """Answer on the web; what there is to count is attached afterwards.

        `reload` is what POST /-/reload calls where web.enable_lifecycle allows it.
        """
        settings = self._config.web
        allowed = reload if settings.enable_lifecycle else None
        self._web.serve(
            web.application(self.render, settings.telemetry_path, notice, self.vcpus, reload=allowed),
        )
        for address in self._web.addresses:
            event(
                log,
                "info",
                "listening",
                address=address,
                path=self._config.web.telemetry_path,
                tls=self._web.scheme == "https",
            )

    @property
    def addresses(self) -> list[str]:
        """What is listened on, as host:port."""
        return self._web.addresses

    def attach(self) -> None:
        """Attach to this host's KVM, waiting for its module if it is not loaded yet.

        Raises LoadError, and StartError where another instance is attached already.
        """
        self._lock_file = _sole_instance(self._config.lock_file)
        waiting = False
        while not self._stop.is_set():
            formats = host.read_formats(self._sysfs)
            if formats:
                self._load(formats, attach=True)
                self._start_collector(time.monotonic_ns)
                event(
                    log,
                    "info",
                    "attached",
                    kernel=os.uname().release,
                    vcpus=self._config.limits.vcpus,
                    cells=self._config.limits.cells,
                    map_bytes=host.map_bytes(self._config),
                )
                return
            if not waiting:
                event(
                    log,
                    "warn",
                    "waiting for KVM: the tracepoint kvm:kvm_exit does not exist yet",
                    remedy="modprobe kvm_intel or kvm_amd; on arm64 the kernel must have booted at EL2",
                )
                waiting = True
            self._stop.wait(_KVM_POLL_SECONDS)

    def replay(self, file: Path, speed: float) -> None:
        """Load the program without attaching it, and feed it a recording for ever.

        Raises RecordingError, LoadError.
        """
        recorded = recording.read(file)
        self._state.replay = True
        self._load(host.Formats(recorded.kvm_exit, recorded.kvm_userspace_exit), attach=False)
        assert self._loaded
        self._player = Player(recorded, self._loaded.programs, speed=speed)
        self._start_collector(self._player.clock_ns)
        event(
            log,
            "warn",
            "replaying a recording: no number on /metrics is of this host",
            recording=file.name,
            vms=len(recorded.vms),
            speed=speed,
        )

    def wait(self) -> None:
        """Collect every collect_interval, so that no vCPU lives and dies unseen, until stop().

        Raises StartError when a replay breaks off.
        """
        while not self._stop.wait(self._config.collect_interval):
            self.collect()
            if self._player and self._player.ended():
                raise StartError("a stand-in for a VM ended: the replay is no longer whole")

    def stop(self) -> None:
        """Make attach() and wait() return; safe in a signal handler."""
        self._stop.set()

    def close(self) -> None:
        """Free everything. The programs are detached with their last descriptor."""
        self._web.close()
        if self._player:
            self._player.close()
        with self._collecting:
            if self._collector:
                self._collector.close()
                self._collector = None
        if self._loaded:
            self._loaded.close()
        self._lookup.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
        event(log, "info", "stopped")

    def collect(self) -> None:
        """Read the maps, once at a time. A failure is logged and shows as kvm_exit_exporter_up 0."""
        with self._collecting:
            if not self._collector:
                return
            started = time.monotonic()
            state = self._state
            try:
                state.snapshot = self._collector.collect()
            except Exception as error:  # whatever it is: say so, and try again at the next collection
                state.snapshot = None
                state.collect_errors += 1
                event(log, "error", "collection failed", err=error)
                return
            for record in state.snapshot.vcpus:
                if nameable(record, vcpu_ids=self._vcpu_ids):
                    self._lookup.submit(record.key, record.comm, record.vcpu_id)
            self._warn_of_drops(state.snapshot.counters)
            self._lookup.forget(state.snapshot.vanished)
            self._vanished += state.snapshot.vanished
            state.collect_seconds = time.monotonic() - started
            state.collections += 1

    def _warn_of_drops(self, counters: Mapping[str, int]) -> None:
        """Say it once when a counter of what is lost first moves."""
        for name, value in counters.items():
            if value and name.startswith("dropped_") and name not in self._warned:
                self._warned.add(name)
                cause = name.replace("dropped_", "").replace("userspace_", "")
                counted = name.replace(cause, "exits_total")
                remedy = _DROP_REMEDIES[cause]
                event(
                    log,
                    "warn",
                    "exits are being dropped",
                    cause=cause,
                    counted_in=f"kvm_exit_exporter_{counted}",
                    remedy=remedy,
                )

    def render(self, accept: str, accept_encoding: str) -> Page:
        """Collect, and render the page for a scraper that sent these headers."""
        self.collect()
        self._lookup.settle(_SETTLE_SECONDS)
        with self._rendering:  # the caches are shared, and two scrapes at once would format the same twice
            self._state.lookups_pending = self._lookup.pending
            with self._collecting:  # may be newer than our own collection: that is only better
                snapshot = self._state.snapshot
                gone, self._vanished = self._vanished, []
            vcpus: list[Identified] = []
            for record in snapshot.vcpus if snapshot else ():
                vcpu = self._lookup.get(record.key)
                if vcpu:  # else its labels are not known yet; its counts are in the maps and come with the next page
                    vcpus.append((record, vcpu))
            self._metrics.update(vcpus, gone)
            return self._exposition.page(self._metrics.families(vcpus), accept, accept_encoding)

    def vcpus(self) -> bytes:
        """Collect, and make the document of all vCPUs. Without a collection it is one of none, counted since 0."""
        self.collect()
        self._lookup.settle(_SETTLE_SECONDS)
        snapshot, replay = self._state.snapshot, self._state.replay
        if snapshot is None:
            return document.encode(document.nothing(0, replay=replay))
        identify, name = self._lookup.get, self._reasons.lookup
        return document.encode(document.reading(snapshot, identify, name, since_ns=self._since_ns, replay=replay))

    def _load(self, formats: host.Formats, *, attach: bool) -> None:
        self._loaded = program.load(host.request(self._config, formats.kvm_exit, attach=attach))
        self._reasons = Reasons(formats.kvm_exit, formats.kvm_userspace_exit)
        self._metrics = self._new_metrics(self._reasons)
        self._vcpu_ids = "vcpu_id" in formats.kvm_exit.fields

    def _new_metrics(self, reasons: Reasons) -> Metrics:
        config = self._config
        shown = ShownReasons(reasons.lookup, config.reasons.allow, config.reasons.deny)
        return Metrics(shown, Detail(config.level.counters, config.level.histograms))

    def _start_collector(self, clock_ns: Callable[[], int]) -> None:
        assert self._loaded
        with self._collecting:
            self._collector = Collector(self._loaded, clock_ns, round(self._config.linger * 1e9))
            self._since_ns = clock_ns()
        self.collect()


def _shape(config: Config) -> Shape:
    classic = config.histogram.classic
    return Shape(
        Classic.of(classic.factor, classic.min, classic.max),
        config.histogram.native,
        classic.in_protobuf,
        config.web.gzip,
    )


def _sole_instance(path: str) -> int | None:
    """Take the lock file, so that a second instance does not double what every exit costs."""
    if not path:
        return None
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        remedy = "run as root, or set lock_file to a file that this user can write"
        raise StartError(f"cannot open lock_file {path}: {error.strerror}; {remedy}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StartError(f"another instance is running: it holds the lock {path}") from None
    return lock
