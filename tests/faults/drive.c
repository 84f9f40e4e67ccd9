// SPDX-License-Identifier: Apache-2.0
/*
 * Thousands of threads that stand in for vCPU threads. Each thread runs the
 * loaded programs a known number of times (BPF_PROG_TEST_RUN) and really ends.
 *
 *	drive EXIT ENTRY USERSPACE [KEY=NUMBER ...]
 *
 * The first three arguments are the programs' descriptors. Keys:
 *	threads	 number of threads in total
 *	parallel number of threads (or VMs) at a time
 *	rounds	 exits and entries of each thread; every seventh returns to the VMM
 *	reasons	 number of different exit reasons
 *	vcpus	 0: all threads belong to this process. Otherwise each VM is a
 *		 process of this number of threads; SIGKILL ends every second VM
 *	seconds	 if set, run for this time and ignore `threads`
 * Prints the counts as one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BPF_PROG_TEST_RUN	10	/* include/uapi/linux/bpf.h */
#define ARM_EXCEPTION_TRAP	2	/* arch/arm64/include/asm/kvm_asm.h */
/* include/uapi/linux/kvm.h: a reason that no real guest on this host causes */
#define KVM_EXIT_S390_TSCH	22
#define MAX_TID			(1 << 22)	/* PID_MAX_LIMIT on 64 bit */
#define MAX_PARALLEL		4096
#define STACK			(64 << 10)

/* union bpf_attr: the members of BPF_PROG_TEST_RUN up to ctx_out */
struct test_run {
	uint32_t prog_fd, retval, data_size_in, data_size_out;
	uint64_t data_in, data_out;
	uint32_t repeat, duration, ctx_size_in, ctx_size_out;
	uint64_t ctx_in, ctx_out;
};

static uint32_t programs[3];
static long threads = 1, parallel = 1, rounds = 1, reasons = 1, vcpus, seconds;

/* Shared between this process and the processes that stand in for VMs. */
static struct shared {
	long begun, ended, exits, entries, userspace, failed, reused, killed;
	long vm_ended[MAX_PARALLEL];	/* of each worker's VM: the number of threads that have sent everything */
	uint32_t tids[MAX_TID];
} *shared;

#define ADD(what, n)	__atomic_add_fetch(&shared->what, n, __ATOMIC_SEQ_CST)

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double deadline;

/* Reserve the numbers of the next `many` threads. Return the first, or -1 at the end. */
static long next_threads(long many)
{
	long number;

	if (seconds)
		return now() < deadline ? ADD(begun, many) - many : -1;
	number = ADD(begun, many) - many;
	return number < threads ? number : -1;
}

static int run(int program, uint64_t first, uint64_t second)
{
	uint64_t context[12] = { first, second };
	struct test_run attr = {
		.prog_fd = programs[program],
		.ctx_size_in = sizeof(context),
		.ctx_in = (uint64_t)context,
	};

	if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)) == 0)
		return 1;
	ADD(failed, 1);
	return 0;
}

static void live(long number)
{
	long exits = 0, entries = 0, userspace = 0;
	char comm[16];

	snprintf(comm, sizeof(comm), "CPU %ld/KVM", number % 1000);
	prctl(PR_SET_NAME, comm);
	if (__atomic_fetch_add(&shared->tids[syscall(SYS_gettid)], 1, __ATOMIC_SEQ_CST) == 1)
		ADD(reused, 1);
	for (long i = 0; i < rounds; i++) {
		exits += run(0, ARM_EXCEPTION_TRAP, 1 + i % reasons);
		if (i % 7 == 6)
			userspace += run(2, KVM_EXIT_S390_TSCH, 0);
		entries += run(1, 0, 0);
	}
	ADD(exits, exits);
	ADD(entries, entries);
	ADD(userspace, userspace);
	ADD(ended, 1);
}

static void *thread(void *number)
{
	live((long)number);
	return NULL;
}

static long worker;

static void *thread_that_stays(void *number)
{
	live((long)number);
	__atomic_add_fetch(&shared->vm_ended[worker], 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
	return NULL;
}

static pthread_t start(void *(*what)(void *), long number)
{
	pthread_attr_t attr;
	pthread_t made;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	while ((errno = pthread_create(&made, &attr, what, (void *)number)) != 0) {
		if (errno != EAGAIN) {
			perror("pthread_create");
			exit(1);
		}
		usleep(1000);
	}
	pthread_attr_destroy(&attr);
	return made;
}

static void *keep_a_thread_going(void *unused)
{
	long number;

	while ((number = next_threads(1)) >= 0)
		pthread_join(start(thread, number), NULL);
	return unused;
}

/* Kill a VM only after its last thread has sent everything: its counts must be complete. */
static void run_vm(long number)
{
	int killed = number / vcpus % 2;
	pthread_t made[vcpus];
	pid_t vm;

	shared->vm_ended[worker] = 0;
	vm = fork();
	if (vm < 0) {
		perror("fork");
		exit(1);
	}
	if (vm == 0) {
		for (long i = 0; i < vcpus; i++)
			made[i] = start(killed ? thread_that_stays : thread, number + i);
		for (long i = 0; i < vcpus; i++)
			pthread_join(made[i], NULL);
		_exit(0);
	}
	if (killed) {
		while (__atomic_load_n(&shared->vm_ended[worker], __ATOMIC_SEQ_CST) < vcpus)
			usleep(100);
		kill(vm, SIGKILL);
		ADD(killed, 1);
	}
	waitpid(vm, NULL, 0);
}

static void run_vms(void)
{
	for (worker = 0; worker < parallel; worker++) {
		long number;

		if (fork())
			continue;
		while ((number = next_threads(vcpus)) >= 0)
			run_vm(number);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
}

static void run_threads(void)
{
	pthread_t keepers[parallel];

	for (long i = 0; i < parallel; i++)
		keepers[i] = start(keep_a_thread_going, 0);
	for (long i = 0; i < parallel; i++)
		pthread_join(keepers[i], NULL);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		long *value;
	} keys[] = {
		{ "threads", &threads }, { "parallel", &parallel }, { "rounds", &rounds },
		{ "reasons", &reasons }, { "vcpus", &vcpus }, { "seconds", &seconds },
	};
	double started = now();

	if (argc < 4) {
		fprintf(stderr, "usage: drive EXIT ENTRY USERSPACE [KEY=NUMBER ...]\n");
		return 2;
	}
	for (int i = 0; i < 3; i++)
		programs[i] = atoi(argv[1 + i]);
	for (int i = 4; i < argc; i++) {
		char *equals = strchr(argv[i], '=');
		size_t key = 0;

		while (equals && key < sizeof(keys) / sizeof(*keys) &&
		       strncmp(argv[i], keys[key].name, equals - argv[i]))
			key++;
		if (!equals || key == sizeof(keys) / sizeof(*keys)) {
			fprintf(stderr, "drive: not understood: %s\n", argv[i]);
			return 2;
		}
		*keys[key].value = atol(equals + 1);
	}
	if (parallel > MAX_PARALLEL || (vcpus && threads % vcpus)) {
		fprintf(stderr, "drive: parallel must be at most %d, and threads a multiple of vcpus\n", MAX_PARALLEL);
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	deadline = started + seconds;
	if (vcpus)
		run_vms();
	else
		run_threads();
	printf("{\"threads\": %ld, \"exits\": %ld, \"entries\": %ld, \"userspace\": %ld, \"failed\": %ld, "
	       "\"reused\": %ld, \"killed\": %ld, \"seconds\": %.3f}\n",
	       shared->ended, shared->exits, shared->entries, shared->userspace, shared->failed,
	       shared->reused, shared->killed, now() - started);
	return 0;
}
