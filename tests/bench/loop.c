// SPDX-License-Identifier: Apache-2.0
/*
 * The guest of the bench: one thread that fires the tracepoint task:task_prctl_unknown
 * twice for each exit. The kernel fires it for a prctl(2) with an unknown option, which
 * then fails. No other thread of the host makes such calls, so no other thread runs the
 * programs.
 */
#include <stdint.h>
#include <sys/prctl.h>
#include <time.h>

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* Send `exits` exits, each followed by its entry. Returns the CPU time of this thread in ns. */
uint64_t loop(uint64_t exits, int exit_option, int entry_option, const unsigned long *reasons, uint64_t nr_reasons)
{
	uint64_t start = cpu_ns(), i, n = 0;

	for (i = 0; i < exits; i++) {
		prctl(exit_option, reasons[n], 0, 0, 0);
		prctl(entry_option, 0, 0, 0, 0);
		n = n + 1 < nr_reasons ? n + 1 : 0;
	}
	return cpu_ns() - start;
}
