"""Make a vCPU in this process with /dev/kvm. Its guest is never entered."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os

from exporter.recording.vm import name_thread

# include/uapi/linux/kvm.h
KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VCPU, KVM_RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80


def run_interrupted(times: int) -> None:
    """Call KVM_RUN with immediate_exit set. Each call fires the tracepoint and returns EINTR before guest entry."""
    name_thread(b"CPU 3/KVM")
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 3)
    size = fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(vcpu, size) as run:
        run[1] = 1  # struct kvm_run, immediate_exit
        for _ in range(times):
            # fcntl.ioctl() is not used: since Python 3.14 it repeats a call after EINTR.
            assert libc.ioctl(vcpu, ctypes.c_ulong(KVM_RUN), 0) == -1
            assert ctypes.get_errno() == errno.EINTR
    for fd in (vcpu, vm, kvm):
        os.close(fd)
