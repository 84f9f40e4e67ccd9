"""The command line of a stand-in for a VM, from which the exporter reads the recorded identity."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm import registry


def command_line(vm: Vm, machine: str) -> list[str]:
    """Return arguments from which the exporter reads this identity. A recording has no arguments of the VM itself.

    If the program is unknown, its arguments are options that the exporter reads under the program's name. If the VM had
    no name, the command line has no name either. The exporter then uses the pid of the process.
    """
    vmm = registry.by_label(vm.vmm)
    if vmm:
        return vmm.sample_command_line(vm, machine)
    program = vm.vmm or "unknown"
    if vm.name != str(vm.pid):
        for vmm in registry.VMMS:
            for more in ((), vmm.typical_options):
                argv = [program, *vmm.sample_command_line(vm, machine)[1:], *more]
                if registry.recognise([program], argv) == (None, vmm):
                    return argv
    return [program]
