"""Exits to the VMM: names and classes of KVM_EXIT_* and errno, and contexts for a replay."""

from __future__ import annotations

import errno
import struct

import pytest

from exporter.kernel.isa import userspace
from exporter.model.reason import Reason, Space
from tests.support.formats import KERNELS, reason_names


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_names_and_classes_are_the_same_on_every_kernel(kernel: str | None) -> None:
    reasons = reason_names(kernel)
    for space, code, expected in [
        (Space.USERSPACE, 6, Reason("KVM_EXIT_MMIO", "mmio")),
        (Space.USERSPACE, 0, Reason("KVM_EXIT_UNKNOWN", "other")),
        (Space.USERSPACE, 24, Reason("KVM_EXIT_SYSTEM_EVENT", "hypercall")),
        (Space.USERSPACE, 39, Reason("KVM_EXIT_MEMORY_FAULT", "fault")),
        (Space.USERSPACE, 99, Reason("UNKNOWN_0x63", "other")),
        (Space.USERSPACE_ERRNO, errno.EINTR, Reason("restart", "interrupt")),
        (Space.USERSPACE_ERRNO, errno.EFAULT, Reason("error_EFAULT", "other")),
        (Space.USERSPACE_ERRNO, 524, Reason("error_524", "other")),
    ]:
        assert reasons.lookup(space, code) == expected


def test_every_kvm_exit_number_has_a_name() -> None:
    assert {space.space: len(space.names()) for space in userspace.SPACES} == {
        Space.USERSPACE: 44,
        Space.USERSPACE_ERRNO: 1,
    }
    assert sorted(userspace.SPACES[0].names()) == list(range(44))


def test_a_context_has_reason_and_errno() -> None:
    assert userspace.encode(Space.USERSPACE, 6) == struct.pack("=qq", 6, 0)
    assert userspace.encode(Space.USERSPACE_ERRNO, errno.EINTR) == struct.pack("=qq", 0, -errno.EINTR)
    for space, code in ((4, 6), (Space.USERSPACE, 1 << 31), (Space.USERSPACE_ERRNO, 1 << 31)):
        with pytest.raises(ValueError, match=f"^an exit to user space of space {space}, code {code}$"):
            userspace.encode(space, code)
