"""The fuzz targets: for each parser of foreign input, a function of bytes that checks the parser's result.

pytest runs them with hypothesis (test_targets.py), and atheris runs them guided by coverage (run.py).
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml

from exporter.common.procfs import start_time
from exporter.config import load as configfile
from exporter.config.options import OPTIONS, Config, ConfigError
from exporter.kernel.tracepoint import FormatError, TracepointFormat, parse_format
from exporter.metrics.exposition import negotiation
from exporter.model.reason import Space
from exporter.naming import cgroup, cmdline
from exporter.naming.identity import identify
from exporter.naming.reasons import ReasonNames
from exporter.naming.vcpu import vcpu_index
from exporter.naming.vmm import registry
from exporter.recording import blocks, tracks
from exporter.recording import recording as recordings
from exporter.recording.blocks import RecordingError
from exporter.recording.events import Kind
from exporter.recording.plan import plan_of
from exporter.web import toolkit
from tests.fuzz import restarts

MAX_BYTES = 1 << 16
SEPARATOR = b"\xff\xff"
"""Separates the parts of an input. It is not UTF-8, so no part contains it by chance."""

_LINE_CHARACTERS = 4096


def _parts(data: bytes, number: int) -> list[bytes]:
    parts = data[:MAX_BYTES].split(SEPARATOR, number - 1)
    return parts + [b""] * (number - len(parts))


def _text(data: bytes) -> str:
    return data[:MAX_BYTES].decode(errors="replace")


def _check_lines(lines: tuple[str, ...], start: str) -> None:
    assert lines
    for line in lines:
        assert line.isprintable(), line
        assert line.startswith(start), line
        assert len(line) <= _LINE_CHARACTERS, line


def _check_config(config: Config) -> None:
    described = configfile.describe(config)
    assert configfile.parse(described, "described") == config, described


def config(data: bytes) -> None:
    """Read a configuration file.

    The result is a configuration that can be printed and read again, or lines of errors.
    """
    try:
        read = configfile.parse(_text(data), "config.yaml")
    except ConfigError as error:
        _check_lines(error.problems, "config.yaml:")
        return
    _check_config(read)


def flags(data: bytes) -> None:
    """Read command line flags: `key=value`, separated by NULs."""
    keys = sorted(OPTIONS)
    given: dict[str, list[str]] = {}
    for word in _text(data).split("\0"):
        key, _, value = word.partition("=")
        given.setdefault(key if key in OPTIONS else keys[len(key) % len(keys)], []).append(value)
    try:
        read = configfile.with_flags(Config(), given)
    except ConfigError as error:
        _check_lines(error.problems, "--")
        return
    _check_config(read)


_KINDS = (
    {Space.VMX},
    {Space.SVM},
    {Space.ARM64_TRAP, Space.ARM64_RET},
    {Space.USERSPACE, Space.USERSPACE_ERRNO},
)
"""Each tuple has spaces whose reasons can be in one metric of one host. So the names of these reasons must differ."""


def tracepoint(data: bytes) -> None:
    """Read a format file of tracefs.

    The result is fields and names, or one line of error. No two codes share a name.
    """
    try:
        read = parse_format(_text(data))
    except FormatError as error:
        _check_lines((str(error),), "line ")
        return
    assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", read.name)
    for name, field in read.fields.items():
        assert name == field.name
        assert 0 <= field.offset < 10**6
        assert 0 <= field.size < 10**6
    _check_names(read)


def _check_names(read: TracepointFormat) -> None:
    codes = {0, 1, 2, 0x400, 0xFFFF, 0x80000021, 0xFFFFFFFF}
    for table in read.symbols.values():
        codes |= {code & 0xFFFFFFFF for code in table}
    reasons = ReasonNames(read, read)
    for spaces in _KINDS:
        names: dict[str, tuple[int, int]] = {}
        for space in spaces:
            for code in codes:
                name = reasons.lookup(space, code).name
                assert name
                assert names.setdefault(name, (space, code)) == (space, code), (name, names[name], space, code)


def command_line(data: bytes) -> None:
    """Read /proc/PID/cmdline of a VMM. Any user of the host can choose its content."""
    argv = cmdline.split(data[:MAX_BYTES])
    found = registry.recognise([cmdline.base_name(argv[0])] if argv else [], argv)
    assert set(found) <= {*registry.VMMS, None}
    assert found.vmm in (None, found.grammar)
    for vmm in registry.VMMS:
        for text in vmm.read_identity(argv)[:2]:
            text.encode()  # no lone surrogates
            assert "\0" not in text
            assert len(text) <= len(data)


_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-proc-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def identity(data: bytes) -> None:
    """Read a process's folder in /proc: cmdline, cgroup, comm and stat."""
    proc = Path(_FOLDER.name)
    process = proc / "7"
    thread = process / "task/8"
    thread.mkdir(parents=True, exist_ok=True)
    parts = _parts(data, 4)
    for name, part in zip(("cmdline", "cgroup", "comm", "stat"), parts):
        (process / name).write_bytes(part)
    (thread / "cgroup").write_bytes(parts[1])
    vm = identify(7, proc).vm
    assert vm.pid == 7
    assert 1 <= len(vm.name) <= 128
    assert len(vm.uuid) <= 64
    assert re.fullmatch(r"[A-Za-z0-9._+-]{1,64}", vm.vmm), vm
    for text in (vm.name, vm.uuid):
        text.encode()
    ticks = start_time(proc / "7")
    assert ticks is None or 0 <= ticks < 10**20
    index = vcpu_index(parts[2], None, 7, 8, proc)
    assert re.fullmatch(r"0|[1-9][0-9]{0,8}|", index), index
    domain = cgroup.libvirt_domain(_text(parts[1]).split("\n"))
    if domain:
        assert domain.name
        assert domain.vmm in {vmm.label for vmm in registry.VMMS if vmm.libvirt_driver}
        domain.name.encode()


_OFFERED = {
    negotiation.TEXT,
    negotiation.OPENMETRICS,
    negotiation.OPENMETRICS_OLD,
    negotiation.PROTOBUF,
}


def accept(data: bytes) -> None:
    """Read Accept and Accept-Encoding.

    The result is always an offered format. It is gzip only if the client asks for it.
    """
    wanted, encoding = (part.decode("latin-1") for part in _parts(data, 2))
    chosen = negotiation.choose_format(wanted)
    assert chosen in _OFFERED
    assert negotiation.choose_format(wanted) is chosen
    assert negotiation.choose_format(wanted.upper().lower()) is negotiation.choose_format(wanted.lower())
    assert negotiation.accepts_gzip(encoding) in (True, False)
    if "gzip" not in encoding.lower() and "*" not in encoding:
        assert not negotiation.accepts_gzip(encoding)


_PART = struct.Struct("<BHI")
_TYPES = list(blocks.Type)


def _assembled(data: bytes) -> bytes:
    """Return a recording with correct checksums, made from parts: type, entries and length, then the content."""
    made, at = [blocks.start()], 0
    while at + _PART.size <= len(data):
        kind, entries, length = _PART.unpack_from(data, at)
        at += _PART.size
        block_type = _TYPES[kind % len(_TYPES)]
        most = 1000 if block_type == blocks.Type.LOST else length  # pack() refuses a longer block
        made.append(blocks.pack(block_type, data[at : at + min(length, most)], entries))
        at += length
    return b"".join(made)


def recording(data: bytes) -> None:
    """Read a recording from another person.

    The result is a whole recording with correct counts, or one line of error.
    """
    path = Path(_FOLDER.name) / "fuzz.kvmrec"
    data = data[:MAX_BYTES]
    path.write_bytes(data if data.startswith(blocks.MAGIC) else _assembled(data))
    try:
        read = recordings.read(path)
    except RecordingError as error:
        _check_lines((str(error),), "")
        return
    assert len(read.vcpus) <= blocks.MAX_THREADS
    for vm in read.vms:
        assert all(len(text) <= 128 for text in (vm.name, vm.uuid, vm.vmm)), vm
    runs = [run for block in read.runs() for run in block]
    assert all(len(run.times) == len(run.events) > 0 for run in runs)
    found = Counter(event.kind for run in runs for event in run.events)
    assert found == +Counter({kind: number for kind, number in read.events.items() if kind != Kind.THREAD})
    assert {run.thread.number for run in runs} <= set(range(len(read.vcpus)))
    _check_replay(read)


def _check_replay(read: recordings.Recording) -> None:
    """Plan a replay, and read the tracks of each VM as its stand-in does."""
    try:
        plan = plan_of(read)
    except RecordingError as error:
        _check_lines((str(error),), str(read.path))
        return
    assert 0 <= len(plan.rooms) <= tracks.MAX_VMS
    assert all(0 < room < 1 << 14 for room in plan.rooms)
    played = [track for vm in range(len(plan.rooms)) for track in tracks.read(read, vm)]
    calls = [call for track in played for call in tracks.passes(track, read.last_ns, endless=False)]
    assert 0 <= len(calls) - sum(map(len, played)) <= len(played)
    assert all(len(call.context) == 88 for call in calls)


def _check_secrets(text: str, said: str) -> None:
    """Assert that no error message contains the value of a secret option."""
    try:
        root = yaml.safe_load(text)
    except Exception:  # not YAML, or an invalid date
        return
    sections = [root.get(key) for key in ("tls_server_config", "basic_auth_users")] if isinstance(root, dict) else []
    for section in sections:
        for key, value in section.items() if isinstance(section, dict) else ():
            secret = isinstance(value, str) and (section is sections[1] or key in {"cert", "key", "client_ca"})
            assert not (secret and len(value) > 15 and text.count(value) == 1 and value in said), (value, said)


def web_config(data: bytes) -> None:
    """Read a web configuration file. The result is settings, or lines of errors without secrets."""
    folder = Path(_FOLDER.name)
    path = folder / "web.yaml"
    path.write_bytes(data[:MAX_BYTES])
    try:
        settings = toolkit.WebConfigFile(path).settings()
    except ConfigError as error:
        _check_lines(error.problems, str(path))
        _check_secrets(_text(data), str(error))
        return
    for name, value in settings.headers:
        assert (name + value).isascii()
        assert (name + value).isprintable()
    assert all(":" not in user for user in settings.users)
    if settings.rate_limit:
        assert settings.rate_limit.take(1e9)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "config": config,
    "flags": flags,
    "tracepoint": tracepoint,
    "command_line": command_line,
    "identity": identity,
    "accept": accept,
    "recording": recording,
    "web_config": web_config,
    "state": restarts.state,
    "ledger": restarts.ledger,
    "listen_fds": restarts.listen_fds,
}
