"""From (space, code) to the name and class of an exit reason.

Names are label values, so that two codes which could meet under one metric must never get one name. That is
kept by construction, whatever a kernel's table says:

- A name that is made here from a number ends in `0x<code>` (an errno's in the decimal number). A table's name
  that repeats an earlier one, or looks like one made here, gets the suffix `_0x<code>`.
- arm64 traps (`EC_`, `UNKNOWN_EC`, `UNKNOWN_0x`) and the other arm64 exits share a metric and cannot meet;
  nor can KVM_EXIT_* reasons and errnos.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from exporter.kernel.isa import tables
from exporter.kernel.tracepoint import TracepointFormat
from exporter.model.reason import Reason, Space

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_VMX_BASIC = 0xFFFF
#: The expressions of the print fmt that name codes of each space: arch/x86/kvm/trace.h,
#: arch/arm64/kvm/trace_arm.h, include/trace/events/kvm.h.
_EXIT_TABLES = {
    Space.VMX: "REC->exit_reason & 0xffff",
    Space.SVM: "REC->exit_reason",
    Space.ARM64_TRAP: "REC->esr_ec",
    Space.ARM64_RET: "REC->ret",
}
_VMX_FLAGS = "REC->exit_reason & ~0xffff"
_USERSPACE_TABLE = "REC->reason"
#: Beginnings that belong to names made here, see the module's docstring.
_OURS = ("UNKNOWN", "EC_", "error_", "restart")


class ReasonNames:
    """The names of exit reasons on one kernel.

    Takes the parsed formats of that kernel's kvm_exit and kvm_userspace_exit. The kernel's own name comes
    first, then the built-in one, then UNKNOWN_0x<code>. Not locked: concurrent lookups are harmless, they
    make equal results.
    """

    def __init__(
        self, kvm_exit: TracepointFormat | None = None, userspace_exit: TracepointFormat | None = None
    ) -> None:
        exits = kvm_exit.symbols if kvm_exit else {}
        userspace = userspace_exit.symbols if userspace_exit else {}
        self._names: dict[int, dict[int, str]] = {
            space: _unique(space, exits.get(expression, {})) for space, expression in _EXIT_TABLES.items()
        }
        self._names[Space.USERSPACE] = _unique(Space.USERSPACE, userspace.get(_USERSPACE_TABLE, {}))
        self._flags = _flag_names(exits.get(_VMX_FLAGS, {}))
        self._cache: dict[tuple[int, int], Reason] = {}

    def lookup(self, space: int, code: int) -> Reason:
        """Name and class of a code, which is taken modulo 2**64; defined for all integers, raises nothing."""
        reason = self._cache.get((space, code))
        if reason is None:
            reason = self._cache[space, code] = self._make(space, code & _U64)
        return reason

    def _make(self, space: int, code: int) -> Reason:
        if space == Space.USERSPACE_ERRNO:
            known = tables.NAMES[space].get(code)
            return Reason(known or f"error_{errno.errorcode.get(code, code)}", _class(space, code))
        names = self._names.get(space)
        if names is None:
            return Reason(f"UNKNOWN_ISA_{space}_0x{code:x}", "other")
        if space == Space.VMX:
            basic = code & _VMX_BASIC
            name = names.get(basic, f"UNKNOWN_0x{basic:x}")
            return Reason(" ".join((name, *self._flag_words(code - basic))), _class(space, basic))
        unknown = "UNKNOWN_RET_" if space == Space.ARM64_RET else "UNKNOWN_"
        return Reason(names.get(code, f"{unknown}0x{code:x}"), _class(space, code))

    def _flag_words(self, flags: int) -> Iterable[str]:
        """The flag part as trace_print_flags_seq() prints it: names, then the bits without one."""
        for mask, name in self._flags.items():
            if flags & mask == mask:
                flags &= ~mask
                yield name
        if flags:
            yield f"0x{flags:x}"


def _class(space: int, code: int) -> str:
    return tables.CLASS_OF[space].get(code, "other")


def _unique(space: Space, kernel: Mapping[int, str]) -> dict[int, str]:
    """{code: final name} from the kernel's table and the built-in one, no name twice.

    Codes take the form of the kernel's 32-bit field: SVM's -1 is stored as 0xffffffff.
    """
    merged: dict[int, str] = {}
    for code, name in (*kernel.items(), *tables.NAMES[space].items()):
        if -(1 << 31) <= code <= _U32:
            merged.setdefault(code & _U32, name)
    if space == Space.ARM64_TRAP:
        merged.pop(0, None)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for code, name in merged.items():
        if not name:
            continue
        # Flags follow a VMX name after a space: one inside it could pass for the flags of another code.
        unclear = name in taken or name.startswith(_OURS) or "0x" in name or (space == Space.VMX and " " in name)
        taken.add(name)
        names[code] = f"{name}_0x{code:x}" if unclear else name
    if space == Space.ARM64_TRAP:
        # The prefix keeps them apart from the other arm64 exits: SERROR is both.
        names = {code: f"EC_{name}" for code, name in names.items()}
        names[0] = "UNKNOWN_EC"
    return names


def _flag_names(kernel: Mapping[int, str]) -> dict[int, str]:
    """{mask: name} in the kernel's order, without impossible masks and misleading names."""
    flags: dict[int, str] = {}
    for mask, name in (*kernel.items(), *tables.VMX_FLAGS.items()):
        possible = mask != 0 and mask & _U32 & ~_VMX_BASIC == mask
        clear = name != "" and not any(letter.isspace() for letter in name) and "0x" not in name
        if possible and clear and name not in flags.values():
            flags.setdefault(mask, name)
    return flags
