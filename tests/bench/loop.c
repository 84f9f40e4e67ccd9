// SPDX-License-Identifier: Apache-2.0
/*
 * The guest of the bench: one thread that fires the tracepoint task:task_prctl_unknown
 * twice for each exit. The kernel fires it for a prctl(2) with an unknown option, which
 * then fails. No other thread of the host makes such calls, so no other thread runs the
 * programs.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <time.h>

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* Other work: write a byte of each cache line. */
static void touch(volatile char *memory, size_t size)
{
	for (size_t i = 0; i < size; i += 64)
		memory[i]++;
}

/*
 * Send `exits` exits, each followed by its entry. Before each of these events, touch
 * the memory. Returns the CPU time of this thread in ns.
 */
uint64_t loop(uint64_t exits, int exit_option, int entry_option, const unsigned long *reasons, uint64_t nr_reasons,
	      unsigned long isa, char *memory, size_t size)
{
	uint64_t start = cpu_ns(), i, n = 0;

	for (i = 0; i < exits; i++) {
		touch(memory, size);
		prctl(exit_option, reasons[n], isa, 0, 0);
		touch(memory, size);
		prctl(entry_option, 0, 0, 0, 0);
		n = n + 1 < nr_reasons ? n + 1 : 0;
	}
	return cpu_ns() - start;
}
