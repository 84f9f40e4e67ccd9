"""Inputs that pass the first check of each parser: the parser's own words in valid and invalid combinations."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from exporter.config.options import OPTIONS
from tests.fuzz.targets import SEPARATOR

_KEYS = st.sampled_from(sorted(OPTIONS))
_SCALARS = st.one_of(
    st.sampled_from(
        [
            "15s",
            "1h30m",
            "0s",
            "us",
            ":9939",
            "[::1]:0",
            "localhost:1",
            "/metrics",
            "/a/../b",
            "vcpu",
            "off",
            "yes",
            "~",
            "0x10",
            "1e3",
            ".inf",
            "4",
            "4096",
            "-1",
            "1_000",
            "debug",
            "builtin",
            "/run/lock",
            "*a",
            "&a",
        ]
    ),
    st.integers().map(str),
    st.text(max_size=20).map(json.dumps),
    st.text(max_size=20),
)
_VALUES = st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3).map(lambda items: f"[{', '.join(items)}]"))


def _nested(key: str, value: str) -> str:
    *sections, last = key.split(".")
    return "".join(f"{name}: {{" for name in sections) + f"{last}: {value}" + "}" * len(sections) + "\n"


CONFIG = st.lists(st.one_of(st.builds(_nested, _KEYS, _VALUES), _VALUES), max_size=6).map("".join)
FLAGS = st.lists(st.builds("{}={}".format, _KEYS, _SCALARS), max_size=4).map("\0".join)

_NUMBERS = st.one_of(
    st.integers(-3, 1 << 33).map(str),
    st.integers(0, 1 << 32).map(hex),
    st.sampled_from(["(0x0C)", "(((0x00UL)))", "0x040 + 14", "~0", "1 << 31", "(1", "08", "1 << 64", "-(-1)"]),
)
_NAMES = st.one_of(
    st.sampled_from(
        ['"HLT"', '"KVM_EXIT_" "IO"', '"UNKNOWN_0x1"', '"EC_WFx"', '"restart"', '"error_11"', '"a\\nb"', '""']
    ),
    st.text(max_size=8).map(json.dumps),
)
_ENTRIES = st.lists(st.builds("{{ {}, {} }}".format, _NUMBERS, _NAMES), max_size=6).map(", ".join)
_ARGUMENTS = st.sampled_from(
    [
        "REC->exit_reason",
        "REC->exit_reason & 0xffff",
        "REC->exit_reason & ~0xffff",
        "REC->ret",
        "REC->esr_ec",
        "REC->reason",
    ]
)
_TABLES = st.lists(
    st.one_of(
        st.builds("__print_symbolic({}, {})".format, _ARGUMENTS, _ENTRIES),
        st.builds('__print_flags({}, " ", {})'.format, _ARGUMENTS, _ENTRIES),
        st.text(max_size=10),
    ),
    max_size=4,
).map(", ".join)
_FIELDS = st.lists(
    st.one_of(
        st.builds(
            "\tfield:{};\toffset:{};\tsize:{};\tsigned:{};\n".format,
            st.sampled_from(
                ["unsigned int exit_reason", "u32 isa", "char comm[16]", "__data_loc char[] name", "int", "x *y"]
            ),
            st.integers(0, 1 << 20),
            st.integers(0, 16),
            st.integers(0, 2),
        ),
        st.text(max_size=10).map(lambda text: text + "\n"),
    ),
    max_size=5,
).map("".join)
TRACEPOINT = st.builds(
    "name: {}\nID: 7\nformat:\n{}\nprint fmt: {}\n".format, st.sampled_from(["kvm_exit", "x y"]), _FIELDS, _TABLES
)

_ARGUMENT = st.one_of(
    st.sampled_from(
        [
            "qemu-system-aarch64",
            "/usr/bin/qemu-kvm",
            "kvm",
            "firecracker",
            "cloud-hypervisor",
            "crosvm",
            "lkvm",
            "run",
            "-name",
            "-uuid",
            "-id",
            "101",
            "guest=a,,b,debug-threads=on",
            "-smbios",
            "type=1,uuid=x",
            "-nodefaults",
            "-S",
            "--id=7",
            "--api-socket",
            "--platform",
            "uuid=1",
            "path=/run/vc/vm/x/clh-api.sock",
            "--socket",
            "/tmp/vm.sock",
            "-",
        ]
    ),
    st.text(max_size=200),
)
COMMAND_LINE = st.lists(_ARGUMENT, max_size=8).map(
    lambda words: b"".join(w.encode(errors="replace") + b"\0" for w in words)
)
_CGROUP = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/vcpu3",
                "4:cpu:/machine/a.libvirt-qemu/vcpu0",
                "0::/machine.slice/machine-ch\\x2d7\\x2d\\xff.scope (deleted)",
                "0::/machine-qemu-\\x00.scope",
            ]
        ),
        st.text(max_size=40),
    ),
    max_size=4,
).map(lambda lines: "\n".join(lines).encode(errors="replace"))
_STAT = st.builds(
    lambda comm, fields: f"7 ({comm}) S {' '.join(map(str, fields))}".encode(errors="replace"),
    st.text(max_size=15),
    st.lists(st.integers(-1, 1 << 70), max_size=25),
)
IDENTITY = st.tuples(
    COMMAND_LINE, _CGROUP, st.one_of(st.sampled_from([b"CPU 3/KVM", b"fc_vcpu 01"]), st.binary(max_size=16)), _STAT
).map(SEPARATOR.join)

_RANGE = st.builds(
    "{}{}{}".format,
    st.sampled_from(
        [
            "text/plain",
            "*/*",
            "text/*",
            "application/openmetrics-text",
            "application/vnd.google.protobuf",
            "gzip",
            "A/B",
            ";",
        ]
    ),
    st.sampled_from(
        ["", ";version=0.0.4", "; version=1.0.0", ';version="0.0.1"', ";proto=io.prometheus.client.MetricFamily", ";"]
    ),
    st.one_of(
        st.sampled_from(["", ";q=0", ";q=1", ";q=nan", ";q=1e-400", ";Q=0.5;x", ";q"]),
        st.floats().map(";q={}".format),
    ),
)
_HEADER = st.one_of(
    st.lists(_RANGE, max_size=5).map(", ".join), st.text(alphabet=st.characters(max_codepoint=255), max_size=60)
)
ACCEPT = st.tuples(_HEADER, _HEADER).map(lambda both: SEPARATOR.join(header.encode("latin-1") for header in both))


_CORPUS = Path(__file__).parent / "corpus"
_WHOLE = (_CORPUS / "recording/whole").read_bytes()


def _changed(changes: list[tuple[int, bytes]]) -> bytes:
    data = bytearray(_WHOLE)
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    return bytes(data)


RECORDING = st.lists(st.tuples(st.integers(0, len(_WHOLE)), st.binary(max_size=9)), max_size=3).map(_changed)

_HASH = "$2b$10$" + "SECRET" + "x" * 47
_WEB_VALUES = st.one_of(
    _VALUES, st.sampled_from([_HASH, "TLS12", "TLS13", "NoClientCert", "deny", "nosniff", "SECRET", "1s"])
)
WEB_CONFIG = st.lists(
    st.builds(
        _nested,
        st.sampled_from(
            [
                "tls_server_config." + name
                for name in ("cert", "key", "cert_file", "key_file", "client_ca", "min_version")
            ]
            + ["tls_server_config.client_auth_type", "tls_server_config.cipher_suites", "rate_limit.interval"]
            + ["http_server_config.http2", "http_server_config.headers.X-Frame-Options", "rate_limit.burst"]
            + ["rate_limit.interval"]
            + ["basic_auth_users.alice", "basic_auth_users.a:b", "basic_auth_users"]
        ),
        _WEB_VALUES,
    ),
    max_size=5,
).map("".join)


def _bytes(texts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return texts.map(lambda text: text.encode(errors="replace"))


def _changed_json(name: str) -> st.SearchStrategy[bytes]:
    """Return a strategy that replaces values of the seed by others."""
    whole = json.loads((_CORPUS / name / "whole").read_text())

    def changed(changes: list[tuple[list[int], Any]]) -> bytes:
        made = copy.deepcopy(whole)
        for path, value in changes:
            at, keys = made, list(path)
            while keys:
                names = list(at) if isinstance(at, dict) else list(range(len(at)))
                key = names[keys.pop() % len(names)]
                if not keys or not isinstance(at[key], (dict, list)) or not at[key]:
                    at[key] = copy.deepcopy(value)
                    break
                at = at[key]
        return json.dumps(made).encode()

    return st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=6), _JSON), max_size=3).map(changed)


_JSON: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, -1, 0, 1.5, 1 << 64, 10**30, "", "\ud800", [], {}, [[]], {"a": 1}]), st.integers()
)
_NAME = st.sampled_from(["web", "state", "ledger.0", "map.slots", "check.x", "", "\udcff"])
LISTEN_FDS = st.builds(
    lambda count, pid, names: SEPARATOR.join(
        part.encode(errors="surrogateescape") for part in (count, pid, ":".join(names))
    ),
    st.one_of(st.integers(-1, 1 << 70).map(str), st.sampled_from(["3", "12", "\u0663", "3 ", ""])),
    st.sampled_from(["7", "7", "7", "8", "", "7 "]),
    st.lists(_NAME, max_size=12),
)

STRATEGIES: dict[str, st.SearchStrategy[bytes]] = {
    "config": _bytes(CONFIG),
    "flags": _bytes(FLAGS),
    "tracepoint": _bytes(TRACEPOINT),
    "command_line": COMMAND_LINE,
    "identity": IDENTITY,
    "accept": ACCEPT,
    "recording": RECORDING,
    "web_config": _bytes(WEB_CONFIG),
    "state": _changed_json("state"),
    "ledger": _changed_json("ledger"),
    "listen_fds": LISTEN_FDS,
}
