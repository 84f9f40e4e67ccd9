"""Finds the name and class of an exit reason by its (space, code).

Names are label values, so two codes that can meet under one metric never get the same name. The rules below keep that
true for every table that a kernel may have:

- A name that this module makes from a number ends in `0x<code>`. The name of an errno ends in its symbol or its
  decimal number.
- If a name in a table repeats an earlier name, or looks like a name of the first rule, it gets the suffix `_0x<code>`.
- If a metric has codes of several spaces, the names of each space begin differently, see kernel/isa.

The facts about each instruction set are in kernel/isa, and not in this module.
"""

from __future__ import annotations

from collections.abc import Mapping

from exporter.kernel.isa import registry
from exporter.kernel.isa.entry import CodeSpace, FlagBits
from exporter.kernel.tracepoint import TracepointFormat
from exporter.model.reason import Reason

_PREFIXES = tuple(space.prefix for space in (*registry.EXIT_SPACES, *registry.USERSPACE_SPACES) if space.prefix)
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF


class ReasonNames:
    """The names of exit reasons on one kernel.

    Takes the parsed formats of that kernel's kvm_exit and kvm_userspace_exit. The kernel's own name comes first, then
    the built-in one, then UNKNOWN_0x<code>. It needs no lock: concurrent look-ups return equal results.
    """

    def __init__(
        self, kvm_exit: TracepointFormat | None = None, userspace_exit: TracepointFormat | None = None
    ) -> None:
        sources = ((kvm_exit, registry.EXIT_SPACES), (userspace_exit, registry.USERSPACE_SPACES))
        self._spaces: dict[int, _SpaceNames] = {
            space.space: _SpaceNames(space, source.symbols if source else {})
            for source, spaces in sources
            for space in spaces
        }
        self._cache: dict[tuple[int, int], Reason] = {}

    def lookup(self, space: int, code: int) -> Reason:
        """Return name and class of a code, which is taken modulo 2**64. Works for all integers, raises nothing."""
        reason = self._cache.get((space, code))
        if reason is None:
            reason = self._cache[space, code] = self._make(space, code & _U64)
        return reason

    def _make(self, space: int, code: int) -> Reason:
        names = self._spaces.get(space)
        return names.lookup(code) if names else Reason(f"UNKNOWN_ISA_{space}_0x{code:x}", "other")


class _SpaceNames:
    """Names and classes of one space on one kernel. `tables` is {expression of the print fmt: {code: name}}."""

    def __init__(self, space: CodeSpace, tables: Mapping[str, Mapping[int, str]]) -> None:
        self._space = space
        self._classes = space.classes()
        self._names = _unique_names(space, space.table_in(tables))
        self._flags = _flag_names(space.flags, tables.get(space.flags.table, {})) if space.flags else {}

    def lookup(self, code: int) -> Reason:
        base = code & self._space.flags.code_mask if self._space.flags else code
        words, rest = self._split_flags(code - base)
        name = self._names.get(base)
        if name is None and rest:  # neither the code nor all flags are known: the whole number is the name
            return Reason(self._space.unnamed(code), "other")
        if rest:
            words.append(f"0x{rest:x}")
        return Reason(" ".join((name or self._space.unnamed(base), *words)), self._classes.get(base, "other"))

    def _split_flags(self, flags: int) -> tuple[list[str], int]:
        """Return names of flags, in the order of trace_print_flags_seq(), and the bits without a name."""
        words = []
        for mask, name in self._flags.items():
            if flags & mask == mask:
                flags &= ~mask
                words.append(name)
        return words, flags


def _unique_names(space: CodeSpace, kernel: Mapping[int, str]) -> dict[int, str]:
    """Return {code: final name} from the kernel's table and the built-in table. No name occurs twice.

    Codes take the form of the kernel's 32-bit field: SVM's -1 is stored as 0xffffffff.
    """
    merged: dict[int, str] = {}
    for code, name in (*kernel.items(), *space.names().items()):
        if -(1 << 31) <= code <= _U32:
            merged.setdefault(code & _U32, name)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for code, name in merged.items():
        if not name or code in space.fixed:
            continue
        if name.startswith(_PREFIXES) and not space.prefix:  # another space can have any name with its prefix
            continue
        # Flags follow a name after a blank. A name that contains a blank could look like another name with flags.
        ambiguous = space.flags is not None and " " in name
        unclear = ambiguous or name in taken or name.startswith(registry.RESERVED) or "0x" in name
        taken.add(name)
        names[code] = space.prefix + (f"{name}_0x{code:x}" if unclear else name)
    return {**names, **space.fixed}


def _flag_names(flags: FlagBits, kernel: Mapping[int, str]) -> dict[int, str]:
    """Return {mask: name} in the kernel's order, without impossible masks and misleading names."""
    names: dict[int, str] = {}
    for mask, name in (*kernel.items(), *flags.names.items()):
        possible = mask != 0 and mask & _U32 & ~flags.code_mask == mask
        clear = name != "" and not any(letter.isspace() for letter in name) and "0x" not in name
        if possible and clear and name not in names.values():
            names.setdefault(mask, name)
    return names
