"""The VMs whose exits were dropped have names, even if none of their vCPUs is in a snapshot."""

from __future__ import annotations

from pathlib import Path

from exporter.metrics.own import VmDrops
from exporter.model.records import ProcessDrops
from exporter.model.vm import Vm
from exporter.naming.lookup import Lookup
from exporter.service.dropped import DroppedVms


def _qemu(proc: Path, pid: int, name: str, start: int) -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (qemu) S " + "0 " * 18 + f"{start} 0\n")
    (proc / str(pid) / "cmdline").write_bytes(f"qemu-kvm\0-name\0{name}\0".encode())


def test_each_process_has_the_name_of_its_vm_until_it_is_forgotten(tmp_path: Path) -> None:
    lookup = Lookup(tmp_path)
    under_test = DroppedVms(lookup)

    def named(drops: dict[int, ProcessDrops]) -> list[VmDrops]:
        under_test.named(drops)
        assert lookup.wait_known(20)
        return under_test.named(drops)

    try:
        _qemu(tmp_path, 10, "web", 5)
        first, second = ProcessDrops(7, 0), ProcessDrops(7, 11)
        assert named({10: first, 20: second}) == [
            VmDrops(Vm(10, "web", "", "qemu"), first),
            VmDrops(Vm(20, "20", "", "unknown"), second),
        ]
        assert named({10: second}) == [VmDrops(Vm(10, "web", "", "qemu"), second)]
        assert named({}) == []
        _qemu(tmp_path, 10, "db", 6)
        assert named({10: first}) == [VmDrops(Vm(10, "db", "", "qemu"), first)]
    finally:
        lookup.close()
