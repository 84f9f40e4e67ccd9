"""A VM's name from a path is not served if another running VM has the same name."""

from __future__ import annotations

from pathlib import Path

from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming.lookup import Lookup
from tests.unit.naming.conftest import CPU0, LONG, Proc, hypervisor, qemu

SOCKET = "/run/vms/web/ch.sock"


def key(pid: int, born_ns: int = 1) -> ThreadKey:
    return ThreadKey(pid, pid + 1, born_ns)


def look_up(names: Lookup, *pids: int) -> None:
    for pid in pids:
        names.submit(key(pid), CPU0, None)
    assert names.wait_known(LONG)


def vms(names: Lookup, *pids: int) -> list[Vm]:
    found = [names.get(key(pid)) for pid in pids]
    return [vcpu.vm for vcpu in found if vcpu]


def end(proc: Proc, pid: int) -> None:
    (proc.root / str(pid) / "stat").unlink()


def test_two_vms_with_the_same_path_are_named_by_their_pids(proc: Proc) -> None:
    for pid, socket in ((10, SOCKET), (20, SOCKET), (30, "/run/vms/db/ch.sock")):
        proc.add(pid, "", socket=socket)
    names = proc.lookup()
    look_up(names, 10, 20, 30)
    assert vms(names, 10, 20, 30) == [hypervisor(10, "10"), hypervisor(20, "20"), hypervisor(30, "db")]


def test_only_the_second_vm_is_named_by_its_pid_if_the_name_of_the_first_is_served(proc: Proc) -> None:
    proc.add(10, "", socket=SOCKET)
    proc.add(20, "", socket=SOCKET)
    names = proc.lookup()
    look_up(names, 10)
    assert vms(names, 10) == [hypervisor(10, "web")]
    look_up(names, 20)
    names.submit(ThreadKey(10, 12, 1), b"CPU 1/KVM", None)
    assert names.wait_known(LONG)
    assert vms(names, 10, 20) == [hypervisor(10, "web"), hypervisor(20, "20")]
    assert names.get(ThreadKey(10, 12, 1)) == Vcpu(hypervisor(10, "web"), "1")


def test_a_vm_that_was_restarted_keeps_its_name(proc: Proc) -> None:
    """The exporter still serves the ended VM, whose last values linger."""
    proc.add(10, "", socket=SOCKET)
    names = proc.lookup()
    look_up(names, 10)
    end(proc, 10)
    proc.add(20, "", socket=SOCKET)
    look_up(names, 20)
    assert vms(names, 10, 20) == [hypervisor(10, "web"), hypervisor(20, "web")]


def test_a_process_that_has_the_pid_of_an_ended_vm_is_another_vm(proc: Proc) -> None:
    proc.add(10, "", socket=SOCKET)
    names = proc.lookup()
    look_up(names, 10)
    proc.add(10, "db", start=6)
    proc.add(20, "", socket=SOCKET)
    look_up(names, 20)
    assert vms(names, 20) == [hypervisor(20, "web")]


def test_a_name_that_is_free_again_can_be_used(proc: Proc) -> None:
    proc.add(10, "", socket=SOCKET)
    names = proc.lookup()
    look_up(names, 10)
    names.forget([key(10)])
    proc.add(20, "", socket=SOCKET)
    look_up(names, 20)
    assert vms(names, 20) == [hypervisor(20, "web")]


def test_a_stated_name_is_always_served(proc: Proc) -> None:
    """Two VMs may state the same name, for example for different users of libvirt."""
    proc.add(10, "web")
    proc.add(20, "web")
    proc.add(30, "", socket=SOCKET)
    proc.add(40, "db")
    proc.add(50, "", socket="/run/vms/db/ch.sock")
    names = proc.lookup()
    look_up(names, 10, 20, 30)
    assert vms(names, 10, 20, 30) == [qemu(10, "web"), qemu(20, "web"), hypervisor(30, "30")]
    look_up(names, 50)
    look_up(names, 40)
    assert vms(names, 40, 50) == [qemu(40, "db"), hypervisor(50, "50")]


def test_the_names_of_an_earlier_process_count(proc: Proc) -> None:
    proc.add(10, "", socket=SOCKET)
    proc.add(20, "", socket=SOCKET)
    names = proc.lookup()
    names.preset(key(10), Vcpu(hypervisor(10, "web"), "0"))
    look_up(names, 20)
    assert vms(names, 10, 20) == [hypervisor(10, "web"), hypervisor(20, "20")]
    end(proc, 10)
    proc.add(30, "", socket=SOCKET)
    end(proc, 20)
    look_up(names, 30)
    assert vms(names, 30) == [hypervisor(30, "web")]


def test_threads_of_one_vm_do_not_share_its_name_with_another_vm(proc: Proc) -> None:
    """After a restart of the exporter, a known VM has a new vCPU."""
    proc.add(10, "", socket=SOCKET)
    names = proc.lookup()
    names.preset(ThreadKey(10, 11, 1), Vcpu(hypervisor(10, "web"), "0"))
    names.submit(ThreadKey(10, 12, 1), b"vcpu1", None)
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(10, 12, 1)) == Vcpu(hypervisor(10, "web"), "1")


def test_the_names_of_a_lookup_are_freed(proc: Proc, tmp_path: Path) -> None:
    proc.add(10, "", socket=SOCKET)
    proc.add(20, "", socket=SOCKET)
    names = proc.lookup()
    names.preset(key(30), Vcpu(Vm(30, "web", "", "qemu"), "0"))
    look_up(names, 10, 20)
    names.forget([key(10), key(20), key(30)])
    assert (names._vms, names._of_name) == ({}, {})
    assert tmp_path == proc.root
