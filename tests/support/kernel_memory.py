"""Kernel memory that a test fills: it stands for KVM's structures of a vCPU."""

from __future__ import annotations

import struct

from exporter.kernel import program
from exporter.kernel.syscall import TestRun

MEMORY = """
/* It stands for the structures of a vCPU. */
struct memory { u64 words[1024]; };
BPF_TABLE("array", u32, struct memory, memory, 1);

/* Put args[1] into the word args[0]. */
int put_word(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	u64 word = ctx->args[0];
	struct memory *m = memory.lookup(&zero);

	if (m && word < 1024)
		m->words[word] = ctx->args[1];
	return 0;
}

/* Half of the address of the memory: the high one if args[0] is set. */
int get_address(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct memory *m = memory.lookup(&zero);

	if (!m)
		return 0;
	*(volatile u64 *)&m->words[1023] = (u64)m;
	u64 address = *(volatile u64 *)&m->words[1023];

	return ctx->args[0] ? address >> 32 : address;
}
"""
MEMORY_PROGRAMS = ("put_word", "get_address")


class Memory:
    """The kernel memory of a loaded program, by address."""

    def __init__(self, loaded: program.Loaded) -> None:
        self._put, address = (TestRun(loaded.programs[name]) for name in MEMORY_PROGRAMS)
        self.address = address(struct.pack("=Q", 1)) << 32 | address(struct.pack("=Q", 0))

    def put(self, offset: int, value: int) -> None:
        """Write a word of eight bytes."""
        assert offset % 8 == 0
        self._put(struct.pack("=QQ", offset // 8, value))
