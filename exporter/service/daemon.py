"""The daemon: wires every room together, and is the only module that knows them all. service.py runs it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from exporter.common import logs
from exporter.common.logs import event
from exporter.config import load as configfile
from exporter.config.options import Config, ConfigError
from exporter.kernel import host, launcher, program
from exporter.kernel.privileges import Account
from exporter.metrics import own as selfmetrics
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.page.page import HtmlPage
from exporter.recording import recording
from exporter.recording.player import Player
from exporter.service import lockfile
from exporter.service.attach import Attached, ProgramSource
from exporter.service.collection import Collection, Survival
from exporter.service.routes import routes
from exporter.service.scrape import Scraper
from exporter.service.systemd import Systemd
from exporter.web.answer import Routes
from exporter.web.server import WebServer
from exporter.web.watched import Watched

log = logging.getLogger("exporter")

_LOADER_SECONDS = 0.5
"""Between two looks at signals while the program is being loaded."""


class StartError(Exception):
    """The service cannot start, or go on; one line for the operator."""


class Daemon:
    """One running exporter: prepare() what needs privileges, drop them, start(), attach(), wait() for its end, close().

    `reread` reads the configuration again, and raises ConfigError.
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
        self._config = config
        self._sysfs = sysfs
        self._systemd = Systemd({}, os.getpid()) if systemd is None else systemd
        self._reread = reread
        self._state = selfmetrics.State(config_loaded=time.time())
        self._lookup = Lookup(proc)
        self._counting = Collection(self._state, self._lookup, round(config.linger * 1e9))
        registry = selfmetrics.registry(self._state, str(proc))
        self._pages = Scraper(config, self._counting, self._lookup, self._state, registry)
        self._attaching = ProgramSource(self._systemd)
        self._loaded: program.Loaded | None = None
        self._player: Player | None = None
        self._replayed: dict[str, object] = {}
        self._notice = ""
        self._html_page: HtmlPage | None = None
        self._lock_file: int | None = None
        self._reloading = threading.Lock()
        self._stopping = self._reload_asked = False
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        sockets = [socket.socket(fileno=fd) for fd in self._attaching.sockets]
        self._web = WebServer(
            () if sockets else config.web.listen_address,
            sockets,
            settings=Watched(Path(config.web.config_file)) if config.web.config_file else None,
            max_requests=config.web.max_requests,
        )

    def prepare(self) -> None:
        """Do all that needs privileges: what an earlier process left attached is taken over, or the loader started.

        Raises StartError where another instance is attached already.
        """
        if self._config.lock_file:
            try:
                self._lock_file = lockfile.hold(Path(self._config.lock_file))
            except lockfile.LockError as error:
                raise StartError(str(error)) from None
        self._attaching.prepare(self._config, self._sysfs)

    def prepare_replay(self, file: Path, speed: float, account: Account | None) -> None:
        """Load the program without attaching it, and feed it a recording for ever, from processes of this account.

        Raises RecordingError, LoadError.
        """
        recorded = recording.read(file)
        self._state.replay = True
        self._notice = "This is a replay of a recording, not this host."
        self._loaded = launcher.load(host.request(self._config, recorded.kvm_exit, attach=False))
        self._pages.set_reasons(ReasonNames(recorded.kvm_exit, recorded.kvm_userspace_exit), self._config)
        self._replayed = {"recording": file.name, "vms": len(recorded.vms), "speed": speed}
        self._player = Player(recorded, self._loaded.programs, speed=speed, account=account)

    def give_to(self, account: Account) -> None:
        """Let the account that this process becomes own what root has made: unix sockets. Raises ListenError."""
        self._web.give_to(account.uid, account.gid)

    def start(self) -> None:
        """Answer on the web; what there is to count is attached afterwards."""
        self._web.serve(self._routes())
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
        """Count what was prepared, after waiting for KVM if its module is not loaded yet. Raises LoadError."""
        if self._player and self._loaded:
            self._counting.begin(self._loaded, self._player.clock_ns, vcpu_ids=False)
            self._state.counting_since_ns = self._player.clock_ns()
            event(log, "warn", "replaying a recording: no number on /metrics is of this host", **self._replayed)
        else:
            attached = self._receive()
            if attached:
                self._begin(attached)
                event(log, "info", "attached", kept_over_restart=attached.kept, **self._sizes())
        if not self._stopping:
            self._systemd.ready()
            self._tell_status()

    def wait(self) -> None:
        """Collect every collect_interval, so that no vCPU lives and dies unseen, until stop().

        Raises StartError when a replay breaks off.
        """
        while not self._stopping:
            self._sleep(min(self._config.collect_interval, (self._systemd.watchdog_seconds or 1e9) / 2))
            self._do_asked()
            self._counting.collect()
            self._pages.tidy()
            if self._html_page:
                self._html_page.forget()
            self._tell_alive()  # from here alone: who cannot collect is not alive
            if self._player and self._player.ended():
                raise StartError("a stand-in for a VM ended: the replay is no longer whole")

    def stop(self) -> None:
        """Make attach() and wait() return; safe in a signal handler."""
        self._stopping = True
        self._wake_up()

    @property
    def wakes(self) -> int:
        """A descriptor that ends the daemon's sleep when something is written to it."""
        return self._wake

    def ask_reload(self) -> None:
        """Have attach() or wait() call reload(); safe in a signal handler."""
        self._reload_asked = True
        self._wake_up()

    def reload(self) -> str:
        """Read the configuration again, and do what it says as far as that needs no restart.

        Returns "", or one line that says what is wrong; the old configuration is then still in force.
        """
        if not self._reread:
            return "there is nothing to read again"
        with self._reloading, self._systemd.reloading():
            try:
                new, waiting = configfile.reloaded(self._config, self._reread())
            except ConfigError as error:
                self._state.config_good = False
                for problem in error.problems:
                    event(log, "error", "configuration not reloaded, the old one stays in force", problem=problem)
                more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
                return f"{error.problems[0]}{more}"
            self._reconfigure(new)
            for key in waiting:
                in_force = configfile.shown(new, key)
                event(log, "warn", "a changed option waits for a restart", option=key, in_force=in_force)
            event(log, "info", "configuration reloaded")
            return ""

    def close(self) -> None:
        """Free everything. The programs are detached with their last descriptor: systemd may hold one."""
        self._systemd.stopping()
        self._web.close()
        self._attaching.close()
        if self._player:
            self._player.close()
        if self._loaded and self._systemd and not self._player:
            self._counting.settle()
        self._counting.close()
        if self._loaded:
            self._loaded.close()
        self._lookup.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
        os.close(self._wake)
        os.close(self._woken)
        event(log, "info", "stopped")

    def _receive(self) -> Attached | None:
        """The attached program; None if the service is to stop before it is there."""
        waiting = False
        while not self._stopping:
            try:
                attached = self._attaching.receive(_LOADER_SECONDS)
            except program.LoadError:
                if self._stopping:  # whoever stops the service may have stopped the loader first
                    return None
                raise
            if attached:
                return attached
            if self._attaching.waiting and not waiting:
                waiting = True
                event(
                    log,
                    "warn",
                    "waiting for KVM: the tracepoint kvm:kvm_exit does not exist yet",
                    remedy="modprobe kvm_intel or kvm_amd; on arm64 the kernel must have booted at EL2",
                )
                self._systemd.ready()  # and answers: that there is no KVM is no failure of this service
                self._tell_status("waiting for KVM: its tracepoints do not exist yet")
            self._do_asked()
            self._tell_alive()
        return None

    def _begin(self, attached: Attached) -> None:
        self._loaded = attached.loaded
        try:
            formats = host.parsed(attached.loaded.formats)
            self._pages.set_reasons(ReasonNames(*formats), self._config, attached.before if attached.kept else None)
            self._state.counting_since, self._state.counting_since_ns = attached.since
            self._counting.begin(
                attached.loaded,
                time.monotonic_ns,
                vcpu_ids="vcpu_id" in formats.kvm_exit.fields,
                before=attached.before,
                survival=Survival(attached.ledger, self._pages.served, self._pages.bases) if attached.ledger else None,
            )
        except (OSError, ValueError, KeyError) as error:
            self._attaching.discard()
            raise StartError(f"the program's maps cannot be read ({error}); the next start counts anew") from error

    def _sizes(self) -> dict[str, object]:
        limits = self._config.limits
        return {
            "kernel": os.uname().release,
            "vcpus": limits.vcpus,
            "cells": limits.cells,
            "map_bytes": host.map_bytes(limits),
        }

    def _reconfigure(self, config: Config) -> None:
        logs.setup(config.log.level, config.log.format)
        self._counting.linger(round(config.linger * 1e9))
        self._pages.reconfigure(config)
        self._config = config
        self._web.use(self._routes())
        self._state.config_good, self._state.config_loaded = True, time.time()
        self._wake_up()

    def _routes(self) -> Routes:
        settings = self._config.web
        reload = self.reload if settings.enable_lifecycle else None
        self._html_page = HtmlPage(
            self._pages.look,
            time.monotonic,
            kernel=f"{os.uname().release} {os.uname().machine}",
            telemetry_path=settings.telemetry_path,
            notice=self._notice,
        )
        return routes(
            self._pages.render, settings.telemetry_path, self._pages.document, page=self._html_page, reload=reload
        )

    def _do_asked(self) -> None:
        if self._reload_asked:
            self._reload_asked = False
            self.reload()

    def _tell_alive(self) -> None:
        if self._web.responds():
            self._systemd.watchdog()

    def _tell_status(self, text: str = "") -> None:
        self._systemd.status(f"{text or 'counting'}; serving on {', '.join(self._web.addresses)}")

    def _sleep(self, seconds: float) -> None:
        if select.select([self._woken], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 64)

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: then it is as good as woken
            os.write(self._wake, b".")
