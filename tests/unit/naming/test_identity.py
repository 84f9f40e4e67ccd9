"""exporter.vms.identity and what it reads by: trees in the shape of /proc, as each VMM leaves them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.model.vm import Vm
from exporter.naming.cgroup import libvirt_domain, vcpu_of_thread
from exporter.naming.cmdline import parse, recognise, split
from exporter.naming.identity import identify, start_time
from exporter.naming.procfs import cgroup_paths, read_head
from exporter.naming.qemu import CommandLineIdentity, looks_like_qemu
from exporter.naming.vcpu import vcpu_index
from tests.support.paths import DATA

UUID = "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0002"


def make(proc: Path, pid: int, argv: list[str] | bytes, *, cgroup: str = "", comm: str = "", exe: str = "") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    raw = argv if isinstance(argv, bytes) else b"".join(arg.encode() + b"\0" for arg in argv)
    (folder / "cmdline").write_bytes(raw)
    (folder / "cgroup").write_text(cgroup)
    (folder / "comm").write_text(comm)
    if exe:
        (folder / "exe").symlink_to(exe)


def known(tmp_path: Path, argv: list[str] | bytes, **files: str) -> Vm:
    make(tmp_path, 42, argv, **files)
    return identify(42, tmp_path)


def test_captured_command_lines(tmp_path: Path) -> None:
    text = (DATA / "vms.txt").read_text()
    commands = [line.rstrip(" ").split(" ") for line in text.splitlines() if line.startswith("/")]
    for pid, argv in enumerate(commands, 141):
        make(tmp_path, pid, argv)
    assert [identify(pid, tmp_path) for pid in (141, 142, 143)] == [
        Vm(141, "db-1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0002", "qemu"),
        Vm(142, "web-1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0001", "qemu"),
        Vm(143, "idle-1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0003", "qemu"),
    ]


@pytest.mark.parametrize(
    ("arguments", "name", "uuid"),
    [
        ("-name guest=web-1,debug-threads=on -uuid U", "web-1", "U"),
        ("-name debug-threads=on,guest=web-1", "web-1", ""),
        ("--name guest=web --uuid U", "web", "U"),
        ("-name web", "web", ""),
        ("-name web,process=qemu-web", "web", ""),
        ("-name process=qemu-web", "42", ""),
        ("-name a,,b,debug-threads=on", "a,b", ""),
        ("-name guest=a,,,,b,,", "a,,b,", ""),
        ("-name guest=a=b,process=p", "a=b", ""),
        ("-name one -name two", "two", ""),
        ("-name guest=one -name debug-threads=on", "one", ""),
        ("-name", "42", ""),
        ("-name -uuid -uuid U", "-uuid", "U"),
        ("-append -name -uuid U", "42", "U"),
        ("-append -name disk.img", "42", ""),
        ("-enable-kvm -name web", "web", ""),
        ("-S -nodefaults --no-user-config -name web", "web", ""),
        ("disk.img -name web", "web", ""),
        ("-id 101 -name web,debug-threads=on -smbios type=1,uuid=U", "web", "U"),
        ("-id 101 -no-shutdown", "101", ""),
        ("-smbios uuid=U,type=1 -smbios type=0,vendor=v", "42", "U"),
        ("-smbios type=1,serial=s -smbios type=11,uuid=no", "42", ""),
        ("-uuid A -smbios type=1,uuid=B", "42", "A"),
        ("-name guest=default_vm1,debug-threads=on", "default_vm1", ""),
        ("- -- -name x", "42", ""),
        ("", "42", ""),
    ],
)
def test_qemu(tmp_path: Path, arguments: str, name: str, uuid: str) -> None:
    argv = ["/usr/bin/qemu-system-aarch64", *arguments.split()]
    assert known(tmp_path, argv) == Vm(42, name, uuid, "qemu")


@pytest.mark.parametrize("program", ["qemu-system-aarch64", "/usr/libexec/qemu-kvm", "/usr/bin/kvm", "kvm"])
def test_each_name_of_qemu_is_labelled_qemu(tmp_path: Path, program: str) -> None:
    argv = [program, "-name", "guest=web", "-machine", "virt", "-smp", "2"]
    assert known(tmp_path, argv) == Vm(42, "web", "", "qemu")


@pytest.mark.xfail(strict=True, reason="any program with QEMU's options is labelled qemu")
@pytest.mark.parametrize(("program", "label"), [("/opt/our-vm", "our-vm"), ("[vm]", "_vm_")])
def test_an_unknown_program_with_the_options_of_qemu_has_its_own_label(
    tmp_path: Path, program: str, label: str
) -> None:
    argv = [program, "-name", "guest=web", "-uuid", UUID, "-machine", "virt", "-smp", "2"]
    assert known(tmp_path, argv) == Vm(42, "web", UUID, label)


@pytest.mark.parametrize(
    "files",
    [
        {"exe": "/usr/bin/qemu-system-x86_64"},
        {"exe": "/nix/store/x/bin/.qemu-system-x86_64-wrapped"},
        {"comm": "qemu-system-x86\n"},
        {"comm": ".qemu-system-x8\n"},
        {"comm": "qemu-web\n"},
    ],
)
def test_qemu_is_labelled_qemu_by_its_executable_or_comm(tmp_path: Path, files: dict[str, str]) -> None:
    argv = ["microvm@web", "-name", "guest=web", "-M", "microvm", "-smp", "2"]
    assert known(tmp_path, argv, **files) == Vm(42, "web", "", "qemu")


@pytest.mark.xfail(strict=True, reason="a name that begins with a VMM's is taken for the VMM's")
@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/firecracker-something-else", "--id", "web"], "web"),
        (["firecracker-containerd"], "42"),
        (["cloud-hypervisor-fork", "--api-socket", "/run/web.sock"], "web"),
        (["crosvm-guest-tool", "run", "--name", "web"], "web"),
        (["qemu-img", "convert", "a", "b"], "42"),
        (["qemu-ga", "-m", "virtio-serial"], "42"),
        (["qemu-x86_64", "/bin/true"], "42"),
    ],
)
def test_a_name_that_begins_with_that_of_a_vmm_is_another_program(tmp_path: Path, argv: list[str], name: str) -> None:
    program = argv[0].rpartition("/")[2]
    assert known(tmp_path, argv, exe=f"/usr/bin/{program}", comm=program[:15] + "\n") == Vm(42, name, "", program)


@pytest.mark.xfail(strict=True, reason="a comm is cut after 15 bytes, the name has 16")
def test_cloud_hypervisor_is_known_by_its_comm(tmp_path: Path) -> None:
    argv = ["microvm@web", "--api-socket", "web.sock"]
    assert known(tmp_path, argv, comm="cloud-hyperviso\n") == Vm(42, "web", "", "cloud-hypervisor")


def test_qemu_options_decide_only_in_twos() -> None:
    assert looks_like_qemu(["x", "-machine", "virt", "--smp", "2"])
    assert not looks_like_qemu(["x", "-machine", "-smp"])
    assert not looks_like_qemu(["x", "-smp", "2", "-smp", "4"])
    assert not looks_like_qemu(["x", "--kernel", "k", "--memory", "m", "--disk", "d", "--net", "n"])
    assert not looks_like_qemu([])


@pytest.mark.parametrize(
    ("argv", "vm"),
    [
        (["/usr/bin/firecracker", "--id", "f-1", "--api-sock", "/a.sock"], ("f-1", "", "firecracker")),
        (["firecracker-v1.7", "--id=f-1", "--start-time-us=1"], ("f-1", "", "firecracker")),
        (["firecracker", "--id"], ("42", "", "firecracker")),
        (["firecracker", "--no-api", "--config-file", "c"], ("42", "", "firecracker")),
        (["/usr/bin/crosvm", "run", "--name", "c-1", "bzImage"], ("c-1", "", "crosvm")),
        (["crosvm", "run", "--name=c-1", "-p", "--name=no"], ("c-1", "", "crosvm")),
        (["crosvm", "run", "--params", "--name", "no"], ("42", "", "crosvm")),
        (["crosvm", "run", "-s", "/run/crosvm/c-2.sock"], ("c-2", "", "crosvm")),
        (["crosvm", "run", "-s", "/run/crosvm.sock"], ("42", "", "crosvm")),
        (["lkvm", "run", "-k", "Image", "--name", "k-1"], ("k-1", "", "kvmtool")),
        (["/usr/bin/lkvm", "run", "-n", "mode=tap"], ("42", "", "kvmtool")),
        (["kvm", "run", "--name=k-1"], ("k-1", "", "kvmtool")),
        (["cloud-hypervisor", "--api-socket", "/run/x/h-1.sock"], ("h-1", "", "cloud-hypervisor")),
        (["cloud-hypervisor", "--api-socket", "path=/run/x/h-1.sock"], ("h-1", "", "cloud-hypervisor")),
        (
            ["cloud-hypervisor", "--api-socket", "/run/vc/vm/0a1b/clh-api.sock"],
            ("0a1b", "", "cloud-hypervisor"),
        ),
        (["cloud-hypervisor", "--api-socket=/run/libvirt/ch/h-1-socket"], ("h-1", "", "cloud-hypervisor")),
        (["cloud-hypervisor", "--api-socket", "/tmp/ch.sock"], ("42", "", "cloud-hypervisor")),
        (["cloud-hypervisor", "--api-socket", "fd=3"], ("42", "", "cloud-hypervisor")),
        (["cloud-hypervisor", "--platform", "oem_strings=a,uuid=U"], ("42", "U", "cloud-hypervisor")),
        (["cloud-hypervisor", "--cmdline", "--api-socket=/x/no.sock"], ("42", "", "cloud-hypervisor")),
        (["/opt/our vmm!"], ("42", "", "our_vmm_")),
        (["/opt/" + "v" * 100], ("42", "", "v" * 64)),
        (["/"], ("42", "", "unknown")),
        ([], ("42", "", "unknown")),
    ],
)
def test_other_monitors(tmp_path: Path, argv: list[str], vm: tuple[str, str, str]) -> None:
    assert known(tmp_path, argv) == Vm(42, *vm)


def test_program_by_executable_and_by_comm(tmp_path: Path) -> None:
    make(tmp_path, 1, ["microvm@web", "--id", "f"], exe="/nix/store/x/bin/firecracker")
    make(tmp_path, 2, ["x", "--id", "f"], exe="/usr/bin/firecracker (deleted)")
    make(tmp_path, 3, [], comm="qemu-system-aar\n")
    make(tmp_path, 4, [], comm="our vm\n")
    make(tmp_path, 5, b"qemu: web", comm="x\n")
    assert [identify(pid, tmp_path) for pid in range(1, 6)] == [
        Vm(1, "f", "", "firecracker"),
        Vm(2, "f", "", "firecracker"),
        Vm(3, "3", "", "qemu"),
        Vm(4, "4", "", "our_vm"),
        Vm(5, "5", "", "qemu"),
    ]


@pytest.mark.parametrize(
    ("path", "name", "vmm"),
    [
        (r"/machine.slice/machine-qemu\x2d3\x2dweb\x2d1.scope/libvirt/emulator", "web-1", "qemu"),
        (r"/machine.slice/machine-qemu\x2d3\x2dweb\x2d1.scope", "web-1", "qemu"),
        (r"/machine.slice/machine-qemu\x2dweb.scope", "web", "qemu"),
        (r"/machine.slice/machine-qemu\x2d1\x2dcaf\xc3\xa9\x2ex.scope", "café.x", "qemu"),
        (r"/machine.slice/machine-qemu\x2d1\x2d\xff.scope (deleted)", "�", "qemu"),
        (r"/machine.slice/machine-qemu\x2d1\x2da\x2.scope", "a\\x2", "qemu"),
        (r"/machine.slice/machine-ch\x2d1\x2dweb.scope", "web", "cloud-hypervisor"),
        ("/machine/web.libvirt-qemu/emulator", "web", "qemu"),
        ("/machine/qemu-3-web-1.libvirt-qemu", "web-1", "qemu"),
        ("/machine/ch-3-web.libvirt-ch", "web", "cloud-hypervisor"),
        (r"/machine.slice/machine-lxc\x2d3\x2dweb.scope", "42", "daemon"),
        ("/machine.slice/libpod-0a1b.scope", "42", "daemon"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-1.scope",
            "42",
            "daemon",
        ),
        ("/", "42", "daemon"),
    ],
)
@pytest.mark.parametrize("line", ["0::{}", "11:devices:/x\n3:cpu,cpuacct:{}\n1:name=systemd:/y"])
def test_libvirt_cgroups(tmp_path: Path, line: str, path: str, name: str, vmm: str) -> None:
    vm = known(tmp_path, ["daemon"], cgroup=line.format(path) + "\n")
    assert vm == Vm(42, name, "", vmm)


def test_command_line_goes_before_cgroup(tmp_path: Path) -> None:
    scope = r"0::/machine.slice/machine-qemu\x2d3\x2dother.scope" + "\n"
    make(tmp_path, 1, ["qemu-kvm", "-name", "guest=web"], cgroup=scope)
    make(tmp_path, 2, ["qemu-kvm", "-nodefaults"], cgroup=scope)
    make(tmp_path, 3, ["crosvm", "run"], cgroup=scope)
    assert identify(1, tmp_path) == Vm(1, "web", "", "qemu")
    assert identify(2, tmp_path) == Vm(2, "other", "", "qemu")
    assert identify(3, tmp_path) == Vm(3, "other", "", "crosvm")


def test_kubevirt(tmp_path: Path) -> None:
    argv = ["/usr/libexec/qemu-kvm", "-name", "guest=shop_web-1,debug-threads=on", "-uuid", UUID]
    pod = "0::/kubepods.slice/kubepods-pod5f.slice/cri-containerd-0a.scope\n"
    assert known(tmp_path, argv, cgroup=pod) == Vm(42, "shop_web-1", UUID, "qemu")


def test_hostile_strings(tmp_path: Path) -> None:
    make(tmp_path, 1, b'qemu-kvm\0-name\0guest=a"b\n\xff{}\\\0-uuid\0' + b"u" * 70000 + b"\0")
    make(tmp_path, 2, ["qemu-kvm", "-name", "n" * 65536])
    make(tmp_path, 3, b"\0" * 200000)
    make(tmp_path, 4, b"qemu-kvm\0" + b"x\0" * 524282 + b"\0-name\0a-name-cut-by-the-limit\0")
    make(tmp_path, 5, b"\xff\xfe\0\0")
    assert identify(1, tmp_path) == Vm(1, 'a"b\n�{}\\', "u" * 64, "qemu")
    assert identify(2, tmp_path) == Vm(2, "n" * 128, "", "qemu")
    assert identify(3, tmp_path) == Vm(3, "3", "", "unknown")
    assert identify(4, tmp_path) == Vm(4, "4", "", "qemu")
    assert identify(5, tmp_path) == Vm(5, "5", "", "__")


def test_reads_are_bounded_and_cut_arguments_dropped(tmp_path: Path) -> None:
    file = tmp_path / "cmdline"
    file.write_bytes(b"qemu\0-name\0web-server\0")
    assert read_head(file, 14) == b"qemu\0-name\0web"
    assert split(read_head(file, 14)) == ["qemu", "-name"]
    assert split(b"") == []
    assert split(b"\0") == [""]


def test_processes_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "8").write_text("not a folder")
    (tmp_path / "9" / "cmdline").mkdir(parents=True)
    for pid in (6, 7, 8, 9):
        assert identify(pid, tmp_path) == Vm(pid, str(pid), "", "unknown")
        assert start_time(pid, tmp_path) is None
        assert vcpu_index(b"x", None, pid, pid, tmp_path) == ""


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("42 (qemu) S " + "0 " * 18 + "12345 0 0\n", 12345),
        ("42 (a) b) (c) S " + "0 " * 18 + "12345 0\n", 12345),
        ("42 (x\n) S " + "0 " * 18 + "18446744073709551615\n", 18446744073709551615),
        ("42 (qemu) S " + "0 " * 17 + "1\n", None),
        ("42 (qemu) S " + "0 " * 18 + "-1 0\n", None),
        ("42 qemu S " + "0 " * 30, None),
        ("", None),
    ],
)
def test_start_time(tmp_path: Path, stat: str, expected: int | None) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "stat").write_text(stat)
    assert start_time(42, tmp_path) == expected


@pytest.mark.parametrize(
    ("comm", "index"),
    [
        (b"CPU 3/KVM", "3"),
        (b"CPU 3/KVM\0\0\0\0\0\0\0", "3"),
        (b"CPU 3/KVM\0junk", "3"),
        (b"CPU 12/KVM", "12"),
        (b"CPU 1/KVM", "1"),
        (b"CPU 10/KVM", "10"),
        (b"CPU 1/TCG", ""),
        (b"CPU 01/KVM", ""),
        (b"CPU /KVM", ""),
        (b"CPU 1/KVM ", ""),
        (b"CPU 1/KVM\n", ""),
        (b"xCPU 1/KVM", ""),
        ("CPU ٣/KVM".encode(), ""),
        (b"fc_vcpu 0", "0"),
        (b"vcpu7", "7"),
        (b"crosvm_vcpu11", "11"),
        (b"kvm-vcpu-2", "2"),
        (b"qemu-system-aar", ""),
        (b"", ""),
    ],
)
def test_vcpu_index_by_comm(tmp_path: Path, comm: bytes, index: str) -> None:
    assert vcpu_index(comm, None, 1, 2, tmp_path) == index
    assert vcpu_index(comm, 5, 1, 2, tmp_path) == "5"
    assert vcpu_index(comm, 0, 1, 2, tmp_path) == "0"


@pytest.mark.parametrize(
    ("cgroup", "index"),
    [
        (r"0::/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/vcpu3", "3"),
        ("5:cpuset:/machine/web.libvirt-qemu/vcpu12\n1:name=systemd:/x", "12"),
        ("2:freezer:/x\n5:cpuset:/machine/web.libvirt-qemu/vcpu0", "0"),
        ("0::/x/libvirt/emulator", ""),
        ("0::/x/libvirt/vcpu3/more", ""),
        ("0::/x/libvirt/vcpu03", ""),
        ("0::/x/libvirt/avcpu3", ""),
        ("garbage", ""),
        ("", ""),
    ],
)
def test_vcpu_index_by_cgroup(tmp_path: Path, cgroup: str, index: str) -> None:
    thread = tmp_path / "1" / "task" / "2"
    thread.mkdir(parents=True)
    (thread / "cgroup").write_text(cgroup)
    assert vcpu_index(b"qemu-kvm", None, 1, 2, tmp_path) == index
    assert vcpu_index(b"CPU 9/KVM", None, 1, 2, tmp_path) == "9"


def test_this_machines_own_proc() -> None:
    pid = os.getpid()
    proc = Path("/proc")
    vm = identify(pid, proc)
    assert (vm.pid, vm.name, vm.uuid) == (pid, str(pid), "")
    assert vm.vmm not in {"", "unknown"}
    started = start_time(pid, proc)
    assert started is not None
    assert started > 0
    assert start_time(pid, proc) == started


WORDS = st.sampled_from(
    [
        *(
            "-name",
            "--name",
            "-uuid",
            "-id",
            "-smbios",
            "type=1,uuid=x",
            "guest=a,,b",
            "-",
            "--",
            "-p",
            "--id=",
        ),
        *(
            "--api-socket",
            "path=/a/b.sock",
            "--platform",
            "uuid=",
            "-M",
            "-smp",
            "run",
            "",
            "qemu",
            "crosvm",
            "kvm",
        ),
    ]
)


@settings(deadline=None)
@given(st.lists(WORDS | st.text(max_size=8), max_size=8), st.binary(max_size=60))
def test_command_line_parsers_are_total(argv: list[str], raw: bytes) -> None:
    for arguments in (argv, split(raw)):
        for vmm in ("qemu", "firecracker", "cloud-hypervisor", "crosvm", "kvmtool", ""):
            assert isinstance(parse(vmm, arguments), CommandLineIdentity)
        assert isinstance(recognise(arguments, arguments[:2]), str)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=40), st.integers(0, 9))
def test_identify_is_total(tmp_path: Path, cmdline: bytes, cgroup: bytes, comm: bytes, pid: int) -> None:
    folder = tmp_path / str(pid)
    folder.mkdir(exist_ok=True)
    for name, content in {
        "cmdline": cmdline,
        "cgroup": cgroup,
        "comm": comm,
        "stat": cgroup + cmdline,
    }.items():
        (folder / name).write_bytes(content)
    vm = identify(pid, tmp_path)
    assert vm.pid == pid
    assert 0 < len(vm.name) <= 128
    assert 0 < len(vm.vmm) <= 64
    assert len(vm.uuid) <= 64
    assert start_time(pid, tmp_path) is None or cgroup + cmdline
    paths = cgroup_paths(folder)
    assert all(path == "" or path.startswith("/") for path in paths)
    libvirt_domain(paths)
    assert vcpu_of_thread(paths) == "" or vcpu_of_thread(paths).isdigit()


@settings(deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_libvirt_names_survive_systemds_escaping(name: str) -> None:
    allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_."
    raw = f"qemu-7-{name}".encode(errors="replace")
    escaped = "".join(chr(byte) if chr(byte) in allowed else f"\\x{byte:02x}" for byte in raw)
    domain = libvirt_domain([f"/machine.slice/machine-{escaped}.scope/libvirt/emulator"])
    expected = name.encode(errors="replace").decode()
    assert domain is not None
    assert domain == (expected, "qemu")
