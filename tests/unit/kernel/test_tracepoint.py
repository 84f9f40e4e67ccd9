"""The parsers of format files and of their print fmt are tested with files of five kernels and with hostile files."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.kernel.printfmt import symbol_tables
from exporter.kernel.tracepoint import FormatError, RecordField, TracepointFormat, event_id, parse_format
from tests.support.paths import FORMATS

ALL = sorted(FORMATS.glob("*/*.format"))
EXIT_FORMATS = sorted(FORMATS.glob("*/kvm_*exit.format"))
HEADER = "name: x\nID: 1\nformat:\n\tfield:int ret;\toffset:8;\tsize:4;\tsigned:1;\n\n"


def read(kernel: str, event: str) -> TracepointFormat:
    return parse_format((FORMATS / kernel / f"{event}.format").read_text())


def entries_by_regex(text: str) -> list[tuple[int, str]]:
    """Read the entries with a regular expression. It checks nothing, so it may only read files of real kernels."""
    found = re.findall(r"\{\s*([^{},]+),\s*((?:\"[^\"]*\"\s*)+)\}", text)
    return [(eval(value.replace("UL", ""), {}), "".join(re.findall(r'"([^"]*)"', name))) for value, name in found]


def test_the_id_of_an_event_is_read_from_its_format() -> None:
    assert event_id("name: x\nID: 1103\nformat:\n") == 1103
    assert all(event_id(path.read_text()) for path in ALL)
    for text in ("name: x\n", "name: x\nID: \n", "name: x\nID: 1x\n", "xID: 1\n"):
        with pytest.raises(FormatError, match=r"^a format without an ID$"):
            event_id(text)


def test_fields_of_kvm_exit_are_read_on_aarch64() -> None:
    parsed = read("aarch64-6.12", "kvm_exit")
    assert parsed.name == "kvm_exit"
    assert parsed.fields == {
        "common_type": RecordField("common_type", 0, 2, False),
        "common_flags": RecordField("common_flags", 2, 1, False),
        "common_preempt_count": RecordField("common_preempt_count", 3, 1, False),
        "common_pid": RecordField("common_pid", 4, 4, True),
        "ret": RecordField("ret", 8, 4, True),
        "esr_ec": RecordField("esr_ec", 12, 4, False),
        "vcpu_pc": RecordField("vcpu_pc", 16, 8, False),
    }


def test_fields_of_kvm_exit_are_read_on_x86() -> None:
    fields = read("x86_64-6.18", "kvm_exit").fields
    assert fields["exit_reason"] == RecordField("exit_reason", 8, 4, False)
    assert fields["isa"] == RecordField("isa", 24, 4, False)
    assert fields["vcpu_id"] == RecordField("vcpu_id", 56, 4, False)
    assert fields["requests"] == RecordField("requests", 64, 8, False)


@pytest.mark.parametrize(
    ("kernel", "event", "sizes"),
    [
        ("aarch64-6.1", "kvm_exit", {"REC->ret": 4, "REC->esr_ec": 34}),
        ("aarch64-6.12", "kvm_exit", {"REC->ret": 4, "REC->esr_ec": 35}),
        *(
            (
                kernel,
                "kvm_exit",
                {"REC->exit_reason & 0xffff": vmx, "REC->exit_reason": svm, "REC->exit_reason & ~0xffff": 1},
            )
            for kernel, vmx, svm in (
                ("x86_64-6.18", 65, 110),
                ("x86_64-svm-6.1", 62, 108),
                ("x86_64-svm-6.12", 62, 108),
            )
        ),
        ("aarch64-openeuler-5.10", "kvm_exit", {"REC->ret": 4}),
        ("x86_64-before-may-2020", "kvm_exit", {"REC->exit_reason": 62, "REC->exit_reason #2": 108}),
        *(
            (path.parent.name, "kvm_userspace_exit", {"REC->reason": 31})
            for path in sorted(FORMATS.glob("*/kvm_userspace_exit.format"))
        ),
        ("x86_64-6.18", "kvm_mmio", {"REC->type": 3}),
        ("x86_64-6.18", "kvm_pio", {}),
        ("x86_64-6.18", "kvm_entry", {}),
    ],
)
def test_tables_have_every_entry(kernel: str, event: str, sizes: dict[str, int]) -> None:
    assert {key: len(table) for key, table in read(kernel, event).symbols.items()} == sizes


@pytest.mark.parametrize("path", EXIT_FORMATS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_second_reader_finds_the_same_entries(path: Path) -> None:
    text = path.read_text()
    parsed = parse_format(text)
    assert [item for table in parsed.symbols.values() for item in table.items()] == entries_by_regex(text)


def test_values_are_read_in_every_notation() -> None:
    arm, x86 = read("aarch64-6.12", "kvm_exit").symbols, read("x86_64-6.18", "kvm_exit").symbols
    assert arm["REC->esr_ec"][0] == "UNKNOWN"
    assert arm["REC->esr_ec"][0x1A] == "ERET"
    assert read("aarch64-6.1", "kvm_exit").symbols["REC->esr_ec"][0x0C] == "CP14_64"
    assert arm["REC->ret"] == {0: "IRQ", 1: "SERROR", 2: "TRAP", 0xBADCA11: "HYP_GONE"}
    assert x86["REC->exit_reason"][0x040 + 14] == "PF excp"
    assert x86["REC->exit_reason"][-1] == "invalid_guest_state"
    assert x86["REC->exit_reason & 0xffff"][85] == "MSR_WRITE_IMM"
    assert x86["REC->exit_reason & ~0xffff"] == {0x80000000: "FAILED_VMENTRY"}
    assert read("x86_64-6.18", "kvm_userspace_exit").symbols["REC->reason"][2] == "KVM_EXIT_IO"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", 1),
        ("010", 8),
        ("0", 0),
        ("0X1fUL", 0x1F),
        ("1ULL << 4 | 3", 19),
        ("1 << 2 + 1", 8),
        ("6 & 3 ^ 1", 3),
        ("2 * (3 + 4) - -1", 15),
        ("~0", -1),
        ("~0xff & 0x1ff", 0x100),
        ("8 >> 1 >> 1", 2),
        ("10 - 3 - 2", 5),
        ("+7", 7),
        ("0xffffffffffffffff", (1 << 64) - 1),
    ],
)
def test_expressions_have_the_same_value_as_in_c(value: str, expected: int) -> None:
    assert symbol_tables(f'__print_symbolic(REC->a, {{ {value}, "it" }})') == {"REC->a": {expected: "it"}}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "NAME",
        "08",
        "0x",
        "1 +",
        "1 2",
        "(1",
        "1)",
        "1 << 64",
        "1 << -1",
        "0xffffffffffffffff + 1",
        "(u32)1",
        "sizeof(int)",
        "1.5",
        "9" * 5000,
        "(" * 5000 + "1" + ")" * 5000,
        "-" * 5000 + "1",
        "'a'",
        '"x"',
    ],
)
def test_entries_with_an_unclear_value_are_left_out(value: str) -> None:
    text = f'__print_symbolic(REC->a, {{ 1, "one" }}, {{ {value}, "bad" }}, {{ 2, "two" }})'
    tables = symbol_tables(text)
    assert tables.get("REC->a", {}).get(1) == "one"
    assert "bad" not in tables["REC->a"].values()


def test_names_are_read_and_invalid_names_are_left_out() -> None:
    good = r'{1, "a\"b\\c"}, {2, "A_" "B" "C"}, {6, "}{,"}'
    bad = r'{3, ""}, {4, "\x41"}, {5, X "y"}'
    text = f"__print_symbolic(REC->a, {bad}, {good})"
    assert symbol_tables(text) == {"REC->a": {1: 'a"b\\c', 2: "A_BC", 6: "}{,"}}


def test_the_first_name_of_a_value_is_used() -> None:
    assert symbol_tables('__print_symbolic(REC->a, {1, "x"}, {1, "y"})') == {"REC->a": {1: "x"}}


def test_a_second_table_of_the_same_expression_has_a_separate_key() -> None:
    text = 'isa == 1 ? __print_symbolic(REC->r, {1, "a"}) : __print_symbolic(REC->r, {1, "b"})'
    assert symbol_tables(text) == {"REC->r": {1: "a"}, "REC->r #2": {1: "b"}}
    assert symbol_tables('__print_symbolic(REC->r, {1, "a"}), __print_symbolic(REC->r, {1, "a"})') == {
        "REC->r": {1: "a"}
    }


def test_print_flags_and_64_bit_variants_are_read() -> None:
    assert symbol_tables('__print_flags(REC->f & ~0xff, "|, ", {256, "A"}, {512, "B"})') == {
        "REC->f & ~0xff": {256: "A", 512: "B"}
    }
    assert symbol_tables('__print_symbolic_u64((unsigned long long)f(a, b), {1, "A"})') == {
        "(unsigned long long)f(a, b)": {1: "A"}
    }


def test_a_text_that_is_cut_off_still_gives_its_complete_entries() -> None:
    text = (FORMATS / "x86_64-6.18" / "kvm_userspace_exit.format").read_text()
    whole = parse_format(text).symbols["REC->reason"]
    for end in range(text.index("__print_symbolic"), len(text), 7):
        part = parse_format(text[:end]).symbols.get("REC->reason", {})
        assert part == {code: whole[code] for code in part}
    assert len(part) > 28


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the file ends without a print fmt"),
        ("\n\n", "line 3: the file ends without a print fmt"),
        ("name: x\nprint fmt: \n", "line 2: print fmt before the fields"),
        ("print fmt: \n", "line 1: print fmt before the name"),
        ("name: 1x\n", "line 1: not a name: 'name: 1x'"),
        ("name: x\nname: y\n", "line 2: a second name: 'name: y'"),
        ("name: x\n\tfield:int;\toffset:0;\tsize:4;\tsigned:1;\n", "line 2: not a field: '\\tfield:int;"),
        ("\tfield:int a;\toffset:-1;\tsize:4;\tsigned:1;\n", "line 1: not a field: '\\tfield:int a;"),
        ("\tfield:int a;\toffset:٣;\tsize:4;\tsigned:1;\n", "line 1: not a field: '\\tfield:int a;"),
        (HEADER + HEADER[22:], "line 6: a second field ret"),
        (HEADER, "line 6: the file ends without a print fmt"),
        ("x" * (1 << 20) + "x", "line 1: not a format file: 1048577 characters long"),
    ],
)
def test_an_error_is_one_line_with_a_line_number(text: str, message: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_format(text)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("declaration", "name"),
    [
        ("char comm[16]", "comm"),
        ("__data_loc char[] name", "name"),
        ("const char * fmt", "fmt"),
        ("void *ip", "ip"),
        ("unsigned long args[6]", "args"),
    ],
)
def test_the_name_of_a_field_is_found_in_its_declaration(declaration: str, name: str) -> None:
    text = HEADER.replace("int ret", declaration) + "print fmt: \n"
    assert list(parse_format(text).fields) == [name]


PIECES = st.sampled_from(["__print_symbolic", "__print_flags", *'(){},"\\-1', '"a"', "REC->x", "0x", "<<"])


@settings(max_examples=300)
@given(st.lists(PIECES | st.text(max_size=5), max_size=80))
@example(["__print_symbolic", "("])
def test_a_damaged_print_fmt_raises_no_exception(pieces: list[str]) -> None:
    parsed = parse_format(HEADER + "print fmt: " + " ".join(pieces))
    assert parsed.fields == {"ret": RecordField("ret", 8, 4, True)}
    for table in parsed.symbols.values():
        assert all(isinstance(code, int) and name for code, name in table.items())


@settings(max_examples=300)
@given(st.text() | st.sampled_from(ALL).map(Path.read_text), st.data())
def test_any_text_gives_a_format_or_raises_a_format_error(text: str, data: st.DataObject) -> None:
    if text:
        at = data.draw(st.integers(0, len(text) - 1))
        length = data.draw(st.integers(0, 40))
        text = text[:at] + data.draw(st.text(max_size=10)) + text[at + length :]
    try:
        parsed = parse_format(text)
    except FormatError as error:
        message = str(error)
    else:
        message = "line 0: none" if parsed.name and parsed.fields else ""
    assert re.match(r"line [0-9]+: ", message)


@pytest.mark.parametrize(
    "bomb",
    [
        "__print_symbolic(" * 60000,
        "__print_symbolic(a, {" * 40000,
        "__print_symbolic(a, " + "{1, " * 200000,
        "__print_symbolic(a, {" + "(" * 900000,
        "__print_symbolic(a, {1, " + '\\"' * 450000,
        '"' * 900000,
        "__print_symbolic(a, {1, " + '"x" ' * 200000 + "})",
        "__print_symbolic(a, " + '{1, "x"}, ' * 90000 + ")",
        "\\" * 900000,
        "1<<" * 300000,
        "__print_symbolic(a, {" + "1 + " * 200000 + '1, "x"})',
        " " * 1000000,
    ],
)
def test_no_input_takes_a_long_time(bomb: str) -> None:
    started = time.process_time()  # CPU time and not the time of day, because other programs may use the CPU
    parse_format(HEADER + "print fmt: " + bomb[: 1 << 19])
    parse_format(HEADER + "print fmt: " + bomb[: 1 << 19].replace(" ", "\t"))
    assert time.process_time() - started < 20


def test_thousands_of_tables_for_one_expression_are_read_quickly() -> None:
    """Each table differs from the one before. An older search for a free key took minutes here."""
    tables = "".join(f'__print_symbolic(REC->ret, {{ {code}, "x" }}), ' for code in range(20_000))
    started = time.process_time()
    found = symbol_tables(tables)
    assert time.process_time() - started < 5
    assert len(found) == 64
    assert found["REC->ret"] == {0: "x"}
    assert found["REC->ret #64"] == {63: "x"}
