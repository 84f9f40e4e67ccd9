"""The command line of a stand-in for a VM, from which the exporter reads the recorded identity."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm import registry


def command_line(vm: Vm, machine: str) -> list[str]:
    """Arguments from which the exporter reads this identity. A recording does not hold the arguments of the VM itself.

    If the program is unknown, its arguments are options that the exporter reads under the program's name. If its VM had
    no name, it gets none: the name is then the pid of the stand-in.
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
