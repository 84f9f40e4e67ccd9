"""BTF: synthetic files, damaged ones, and the files of the running kernel."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.kernel.btf import Btf, BtfError, KernelBtf, Member
from tests.support import btf as make
from tests.support.btf import BtfFile

VMLINUX = Path("/sys/kernel/btf/vmlinux")


def example_file() -> BtfFile:
    """struct task { u32 pid; char comm[16]; const stats_t stats; union { u64 both; struct { u32 low, high; }; }; }."""
    file = BtfFile()
    u32, u64, char = file.integer("unsigned int", 4), file.integer("unsigned long", 8), file.integer("char", 1)
    stats = file.struct("stats", 16, {"runs": (u64, 0), "delay": (file.typedef("u64", u64), 64)})
    halves = file.struct("", 8, {"low": (u32, 0), "high": (u32, 32)})
    either = file.union("", 8, {"both": (u64, 0), " ": (halves, 0)})
    constant = file.const(file.typedef("stats_t", stats))
    flag = file.integer("unsigned char", 1, bits=3)
    task = {
        "pid": (u32, 0),
        "comm": (file.array(char, 16), 32),
        "stats": (constant, 192),
        " ": (either, 320),
        "next": (file.pointer(0), 384),
        "narrow": (flag, 448),
        "crooked": (u32, 451),
    }
    number = file.struct("task", 72, task)
    file.struct("flags", 4, {"plain": (u32, 0), "bits": (u32, 3 << 24 | 8)}, flag=1)
    file.typedef("task_t", number)
    return file


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("pid", Member(0, 4)),
        ("comm", Member(4, 16)),
        ("stats", Member(24, 16)),
        ("stats.delay", Member(32, 8)),
        ("both", Member(40, 8)),
        ("high", Member(44, 4)),
        ("next", Member(48, 8)),
    ],
)
def test_members(path: str, member: Member) -> None:
    assert Btf(example_file().content()).member("task", path) == member


@pytest.mark.parametrize(
    ("structure", "path", "error"),
    [
        ("task", "tid", "struct task has no member tid"),
        ("task", "stats.tid", "struct task has no member stats.tid"),
        ("task", "next.pid", "struct task has no member next.pid"),
        ("task", "", "struct task has no member "),
        ("task", "narrow", "narrow is a bitfield"),
        ("task", "crooked", "crooked is a bitfield"),
        ("flags", "bits", "bits is a bitfield"),
        ("task_t", "pid", "no struct task_t"),
        ("tas", "pid", "no struct tas"),
        ("ask", "pid", "no struct ask"),
    ],
)
def test_members_that_cannot_be_found(structure: str, path: str, error: str) -> None:
    with pytest.raises(BtfError) as caught:
        Btf(example_file().content()).member(structure, path)
    assert str(caught.value) == error


def test_a_plain_member_beside_a_bitfield() -> None:
    assert Btf(example_file().content()).member("flags", "plain") == Member(0, 4)


def test_two_structures_of_one_name() -> None:
    file = BtfFile()
    u32 = file.integer("unsigned int", 4)
    for _ in range(2):
        file.struct("same", 8, {"a": (u32, 0), "b": (u32, 32)})
    for place in (0, 32):
        file.struct("other", 8, {"a": (u32, place)})
    found = Btf(file.content())
    assert found.member("same", "b") == Member(4, 4)
    with pytest.raises(BtfError, match=r"^struct other has more than one layout$"):
        found.member("other", "a")


def test_arguments_of_a_tracepoint() -> None:
    file = BtfFile()
    u32 = file.integer("unsigned int", 4)
    vcpu = file.struct("kvm_vcpu", 4, {"vcpu_id": (u32, 0)})
    file.tracepoint("kvm_exit", file.pointer(file.const(vcpu)), file.typedef("u32", file.typedef("__u32", u32)))
    file.tracepoint("far", file.pointer(file.pointer(file.forward("page"))), file.pointer(0))
    file.tracepoint("none")
    file.typedef("btf_trace_number", u32)
    file.typedef("btf_trace_wrong", file.pointer(file.prototype(u32)))
    file.tracepoint("twice", u32)
    file.tracepoint("twice", vcpu)
    found = Btf(file.content())
    assert found.tracepoint_arguments("kvm_exit") == ("struct kvm_vcpu *", "unsigned int")
    assert found.tracepoint_arguments("far") == ("struct page **", "void *")
    assert found.tracepoint_arguments("none") == ()
    for event, error in (
        ("kvm_entry", "no typedef btf_trace_kvm_entry"),
        ("number", "btf_trace_number is no pointer to a function"),
        ("wrong", "btf_trace_wrong has no first argument void *"),
        ("twice", "btf_trace_twice has more than one prototype"),
    ):
        with pytest.raises(BtfError) as caught:
            found.tracepoint_arguments(event)
        assert str(caught.value) == error


def split() -> tuple[BtfFile, BtfFile]:
    """vmlinux, and a module whose structure has types and names of vmlinux."""
    vmlinux = BtfFile()
    u32 = vmlinux.integer("unsigned int", 4)
    list_head = vmlinux.struct("list_head", 16, {"next": (vmlinux.pointer(0), 0), "prev": (vmlinux.pointer(0), 64)})
    vmlinux.struct("only_in_vmlinux", 4, {"pid": (u32, 0)})
    module = BtfFile(vmlinux)
    own = module.struct("vcpu_vt", 24, {"list": (list_head, 0), "exit_reason": (u32, 128)})
    module.struct("vcpu_vmx", 32, {"vt": (own, 64), "next": (u32, 0)})
    return vmlinux, module


def test_the_btf_of_a_module_continues_that_of_vmlinux(tmp_path: Path) -> None:
    vmlinux, module = split()
    make.write(tmp_path, vmlinux=vmlinux, kvm_intel=module)
    kernel = KernelBtf(tmp_path)
    found = kernel.of("kvm_intel")
    assert found is kernel.of("kvm_intel")
    assert found.member("vcpu_vmx", "vt.exit_reason") == Member(24, 4)
    assert found.member("vcpu_vmx", "vt.list.prev") == Member(16, 8)
    assert found.member("vcpu_vmx", "next") == Member(0, 4)
    assert found.member("only_in_vmlinux", "pid") == Member(0, 4)
    assert kernel.of("kvm_amd") is kernel.of("vmlinux")
    with pytest.raises(BtfError, match=r"^no struct vcpu_vmx$"):
        kernel.of("kvm_amd").member("vcpu_vmx", "vt")


def test_modules(tmp_path: Path) -> None:
    make.load_module(tmp_path, "kvm_amd")
    assert KernelBtf(tmp_path).loaded("kvm_amd")
    assert not KernelBtf(tmp_path).loaded("kvm_intel")


def test_a_kernel_without_btf(tmp_path: Path) -> None:
    for module in ("kvm", "vmlinux"):
        with pytest.raises(BtfError) as caught:
            KernelBtf(tmp_path).of(module)
        assert str(caught.value) == f"{tmp_path}/kernel/btf/vmlinux: No such file or directory"


def test_cycles_end() -> None:
    file = BtfFile()
    file.struct("loop", 8, {"a": (2, 0)})
    file.typedef("again", 2)
    file.struct("nested", 8, {" ": (3, 0)})
    found = Btf(file.content())
    with pytest.raises(BtfError, match=r"^BTF with a typedef of itself$"):
        found.member("loop", "a")
    with pytest.raises(BtfError, match=r"^struct nested has no member a$"):
        found.member("nested", "a")


def one_type(kind: int, items: int) -> bytes:
    """A file with the head of one type, and nothing behind it."""
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 0, 0) + struct.pack("=III", 0, kind << 24 | items, 0)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "BTF of 0 bytes"),
        (b"\x9f\xeb", "BTF of 2 bytes"),
        (b"\xeb\x9f" + bytes(22), "no BTF of this machine's byte order (it begins with eb9f)"),
        (struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 1), "BTF that ends too early"),
        (struct.pack("=HBBIIIII4x", 0xEB9F, 1, 0, 24, 0, 4, 0, 0), "BTF whose last type ends too early"),
        (one_type(make.STRUCT, 1), "BTF whose last type ends too early"),
        (one_type(20, 0), "BTF with a type of the unknown kind 20"),
        (one_type(0, 0), "BTF with a type of the unknown kind 0"),
    ],
)
def test_damaged_files(content: bytes, error: str) -> None:
    with pytest.raises(BtfError) as caught:
        Btf(content)
    assert str(caught.value) == error


@given(st.data())
@example(None)
def test_a_damaged_file_raises_nothing_but_its_error(data: st.DataObject | None) -> None:
    content = bytearray(example_file().content())
    if data:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = Btf(bytes(content))
        found.member("task", "stats.delay")
    except BtfError:
        assert data


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")
def test_the_running_kernel() -> None:
    """Facts that hold on every kernel: facts of the tracepoint, and a member of 16 bytes (TASK_COMM_LEN)."""
    vmlinux = KernelBtf(Path("/sys")).of("vmlinux")
    assert vmlinux.tracepoint_arguments("sched_process_exec") == (
        "struct task_struct *",
        "int",
        "struct linux_binprm *",
    )
    assert vmlinux.member("task_struct", "comm").size == 16
    first, second = (vmlinux.member("list_head", name) for name in ("next", "prev"))
    assert (first, second) == (Member(0, 8), Member(8, 8))
