"""The daemon makes the parts of the service, and goes through the states of lifecycle.py. process.py runs it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from exporter.collect.schedstat import Schedstat
from exporter.common import logs
from exporter.common.logs import event
from exporter.common.procfs import has_foreign_pids
from exporter.config.options import Config
from exporter.kernel import host, remedies
from exporter.kernel.privileges import Account
from exporter.kernel.program import LoadError
from exporter.metrics import own
from exporter.metrics.own import OwnStatus
from exporter.model.records import NOT_COUNTING
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.readings.observer import Observer
from exporter.service import lockfile
from exporter.service.attach import Attached, ProgramSource, StartError, program_source, sort_passed
from exporter.service.collection import Collected, Collection, NothingCollected, Served
from exporter.service.frontend import NOTICE, Frontend
from exporter.service.lifecycle import Lifecycle, State
from exporter.service.reload import Reloader
from exporter.service.scrape import Scraper
from exporter.service.systemd import Systemd
from exporter.service.viewer import Viewer
from exporter.service.waker import Waker

log = logging.getLogger(__name__)

_LOADER_SECONDS = 0.5
"""How long receive() waits for the program.

After that time, the daemon handles signals and the watchdog, and waits again.
"""


class Daemon:
    """One running exporter.

    lifecycle.py has its states. The caller calls prepare() while the process has privileges, and then drops them. Then
    it calls start(), attach() and wait(). At the end it always calls close().
    """

    def __init__(
        self,
        config: Config,
        *,
        proc: Path = Path("/proc"),
        sysfs: Path = Path("/sys"),
        systemd: Systemd | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        """Listen. `reread` reads the configuration again. Raises ListenError, ConfigError, OSError."""
        self._proc, self._sysfs = proc, sysfs
        self._systemd = Systemd({}, os.getpid()) if systemd is None else systemd
        self.lifecycle = Lifecycle()
        self._waker = Waker()
        self._reloader = Reloader(config, reread, self._apply, self._systemd.reloading)
        self._foreign_pids = has_foreign_pids(proc)
        self._lookup = Lookup(proc)
        self._collection: Collected = NothingCollected()
        self._since, self._replay, self._time_split = NOT_COUNTING, False, False
        self._scraper = Scraper(config, self._lookup, own.registry(self._status, str(proc)))
        self._viewer = Viewer(Observer(self._lookup, ReasonNames().lookup, vcpu_ids=False), self._status)
        self._held = contextlib.ExitStack()
        """Frees everything that prepare() and attach() acquire, in reverse order."""
        self._stop_asked = self._reload_asked = False
        self._stored, sockets = sort_passed(self._systemd)
        self._frontend = Frontend(
            config,
            sockets,
            self._systemd.runtime_directory,
            self._scraper.page,
            self._viewer,
            reload=self.reload,
            not_ready=self.lifecycle.not_ready,
        )

    @property
    def addresses(self) -> list[str]:
        """The addresses on which it listens, as host:port or unix:/path."""
        return self._frontend.addresses

    @property
    def files(self) -> list[Path]:
        """The files that the web server reads again."""
        return self._frontend.files

    @property
    def socket_paths(self) -> list[Path]:
        """The unix sockets that close() removes."""
        return self._frontend.socket_paths

    @property
    def wake_fd(self) -> int:
        """A descriptor: a write to it wakes the daemon."""
        return self._waker.fd

    def prepare(self, replay: ProgramSource | None = None) -> None:
        """Do everything that needs privileges: take the lock, and take over a program or start the loader.

        A replay does not need them. Raises StartError if the lock cannot be taken, for example because another instance
        runs; LoadError; OSError.
        """
        config = self._reloader.config
        if replay:
            self._source = replay
        else:
            if config.lock_file:
                try:
                    lock = lockfile.hold(Path(config.lock_file))
                except lockfile.LockError as error:
                    raise StartError(str(error)) from None
                self._held.callback(os.close, lock)
            self._source = program_source(config, self._proc, self._sysfs, self._systemd, self._stored)
        self._held.callback(self._source.close)
        self._replay = self._source.replay
        self.lifecycle.step(State.PREPARED)

    def give_sockets_to(self, account: Account) -> None:
        """Make this account the owner of the unix sockets. The process will run as this account. Raises ListenError."""
        self._frontend.chown(account)

    def start(self) -> None:
        """Answer requests. Raises OSError."""
        if self._foreign_pids:
            event(log, "warn", remedies.NO_NAMES, remedy=remedies.HOST_PIDS)
        notices = [
            text for text, holds in ((NOTICE, self._replay), (f"{remedies.NO_NAMES}.", self._foreign_pids)) if holds
        ]
        self._frontend.start(self._reloader.config, " ".join(notices))

    def attach(self) -> None:
        """Begin to count. If KVM's module is not loaded, wait for it. Raises LoadError, StartError, OSError."""
        self.lifecycle.step(State.LOADING)
        while not self._stop_asked:
            attached = self._receive()
            if attached:
                self._begin(attached)
                break
            waiting = self._source.waiting
            if waiting and self.lifecycle.state is State.LOADING:
                self._wait_for_kvm()
            elif not waiting and self.lifecycle.state is State.WAITING_FOR_KVM:
                self.lifecycle.step(State.LOADING)
            self._reload_if_asked()
            self._notify_alive()

    def wait(self) -> None:
        """Collect every collect_interval until stop(), so that no vCPU starts and vanishes between two collections.

        Raises StartError if a part of a replay has ended.
        """
        while not self._stop_asked:
            self._waker.sleep(min(self._reloader.config.collect_interval, (self._systemd.watchdog_seconds or 1e9) / 2))
            self._reload_if_asked()
            self._collection.collect()
            self._scraper.tidy()
            if self.lifecycle.state is State.TAKING_OVER and not self._scraper.taking_over:
                self.lifecycle.step(State.ATTACHED)
            self._frontend.tidy()
            self._notify_alive()  # notified only after a collection: a process that cannot collect is not alive
            broken = self._source.broken()
            if broken:
                raise StartError(broken)

    def stop(self) -> None:
        """Make attach() and wait() return. Safe in a signal handler."""
        self._stop_asked = True
        self._waker.wake()

    def ask_reload(self) -> None:
        """Make attach() or wait() reload the configuration. Safe in a signal handler."""
        self._reload_asked = True
        self._waker.wake()

    def reload(self) -> str:
        """Reload the configuration. Returns "" or one line with the error."""
        return self._reloader.reload()

    def close(self) -> None:
        """Free everything. A program is detached when its last descriptor is closed; systemd may have one."""
        self.lifecycle.step(State.STOPPING)
        self._systemd.stopping()
        self._frontend.close()
        self._held.close()
        self._stored.close()
        self._lookup.close()
        self._waker.close()
        self.lifecycle.step(State.STOPPED)
        event(log, "info", "stopped")

    def _status(self) -> OwnStatus:
        return OwnStatus(
            self._collection.status,
            self._scraper.status,
            self._reloader.status,
            self._since,
            self._replay,
            self._foreign_pids,
            self._time_split,
            self._frontend.status,
        )

    def _receive(self) -> Attached | None:
        try:
            return self._source.receive(_LOADER_SECONDS)
        except LoadError:
            if self._stop_asked:  # the service is being stopped, and the loader may have been stopped first
                return None
            raise

    def _wait_for_kvm(self) -> None:
        self.lifecycle.step(State.WAITING_FOR_KVM)
        event(log, "warn", f"waiting for KVM: {host.NO_KVM} yet", remedy=host.kvm_remedy())
        self._notify_status("waiting for KVM: its tracepoints do not exist yet")
        self._systemd.ready()  # a host without KVM is not a failure of this service

    def _begin(self, attached: Attached) -> None:
        """Take ownership of the program, and serve its counts. Raises StartError."""
        config = self._reloader.config
        reasons = ReasonNames(*attached.formats)
        observer = Observer(self._lookup, reasons.lookup, vcpu_ids=attached.vcpu_ids)
        self._since, self._time_split = attached.since, not attached.loaded.unsplit_reason
        try:
            self._scraper.set_reasons(reasons, config, attached.before, takeover=attached.takeover)
            served = Served(self._scraper.served, self._scraper.carried_over)
            collection = Collection(
                *(attached, observer, round(config.linger * 1e9), served),
                proc=self._proc,
                schedstat=self._schedstat(attached, config),
            )
        except Exception as error:  # whatever an earlier process left: the next start would fail in the same way
            attached.loaded.close()
            if attached.ledger:
                attached.ledger.close()
            self._source.discard()
            raise StartError(f"the program's maps cannot be read ({error}); the next start counts anew") from error
        self._held.callback(collection.close)
        if self._systemd and not self._replay:
            self._held.callback(collection.recycle)
        self._collection = collection
        self._scraper.use(collection)
        self._viewer.use(collection, observer)
        self.lifecycle.step(State.TAKING_OVER if attached.takeover else State.ATTACHED)
        self._log_begin(attached, config)
        if not self._stop_asked:
            self._notify_status("counting")
            self._systemd.ready()

    def _schedstat(self, attached: Attached, config: Config) -> Schedstat | None:
        """Return the other source of the time that vCPUs wait, if the program does not split the exits' time."""
        unsplit = config.level.time != "off" and attached.loaded.unsplit_reason
        if not unsplit or attached.recording or self._foreign_pids:
            return None
        return Schedstat(self._proc)

    @staticmethod
    def _log_begin(attached: Attached, config: Config) -> None:
        if attached.recording:
            event(log, "warn", "replaying a recording: no number on /metrics describes this host", **attached.recording)
            return
        limits, reason = config.limits, attached.loaded.classic_reason
        event(
            log,
            "info",
            "attached",
            kept_over_restart=attached.takeover,
            kernel=os.uname().release,
            kvm_exit=f"classic tracepoint: {reason}" if reason else "raw tracepoint",
            vcpus=limits.vcpus,
            cells=limits.cells,
            map_bytes=host.map_bytes(limits),
        )
        if attached.loaded.unsplit_reason and config.level.time != "off":
            event(log, "warn", "the time of exits is not split", reason=attached.loaded.unsplit_reason)

    def _apply(self, config: Config) -> None:
        """Put a configuration in force."""
        logs.setup(config.log.level, config.log.format)
        self._scraper.reconfigure(config)
        self._frontend.reconfigure(config)
        self._waker.wake()

    def _reload_if_asked(self) -> None:
        if self._reload_asked:
            self._reload_asked = False
            self.reload()

    def _notify_alive(self) -> None:
        if self._frontend.responds():
            self._systemd.watchdog()

    def _notify_status(self, text: str) -> None:
        self._systemd.status(f"{text}; serving on {', '.join(self._frontend.addresses)}")
