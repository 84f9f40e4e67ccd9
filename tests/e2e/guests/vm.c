// SPDX-License-Identifier: Apache-2.0
/*
 * The common part of the exact guests: threads with QEMU's thread names, rounds, signals, and the counts as one
 * line of JSON.
 *
 * Arguments are QEMU's, ignored except for debug-threads=on, and one "-exact KIND=N,KIND=N..." for each vCPU.
 * After a round every vCPU thread stays parked outside KVM_RUN. The line "again" on standard input starts another
 * round; any other line or the end of input ends the program. Counts are the sums of all rounds.
 *
 * "kick=N" interrupts a vCPU with N signals. With "hold=1" the vCPU spins in the guest, and its thread id is
 * printed, until a line arrives on standard input.
 */
#define _GNU_SOURCE
#include "vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct vm vm;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int rounds_started, threads_started, vcpus_parked, vcpus_with_memory;
static bool debug_threads;
static __thread struct kvm_run *this_run;

void die(const char *what)
{
	fprintf(stderr, "exact guest: %s: %s\n", what, strerror(errno));
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000UL + now.tv_nsec;
}

int kvm_do(int fd, unsigned long request, const char *name, void *argument)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		die(name);
	return result;
}

uint64_t guest_memory(const struct vcpu *vcpu)
{
	return arch_memory + vcpu->index * VCPU_PAGES * PAGE;
}

void set_register(struct vcpu *vcpu, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)&value };

	KVM_DO(vcpu->fd, KVM_SET_ONE_REG, &reg);
}

uint64_t get_register(struct vcpu *vcpu, uint64_t id)
{
	uint64_t value = 0;
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)&value };

	KVM_DO(vcpu->fd, KVM_GET_ONE_REG, &reg);
	return value;
}

void tally(struct vcpu *vcpu, enum tally_of of, const char *reason, unsigned long count)
{
	struct tally *t = vcpu->tallies;

	while (t->reason && (t->of != of || strcmp(t->reason, reason)))
		t++;
	if (t == vcpu->tallies + MAX_TALLIES - 1)
		die("more reasons than MAX_TALLIES");
	t->of = of;
	t->reason = reason;
	t->count += count;
}

/*
 * Like QEMU: without immediate_exit, a signal just before KVM_RUN would not interrupt KVM_RUN, and the vCPU would
 * enter the guest.
 */
static void on_kick(int signal)
{
	(void)signal;
	this_run->immediate_exit = 1;
}

/*
 * When vCPUs access the VM's memory for the first time, KVM builds the tables for it. If two vCPUs build the same table,
 * one of them loses, and its access causes one more exit (RET_PF_RETRY in kvm_tdp_mmu_map(), arch/x86/kvm/mmu/tdp_mmu.c).
 * So each vCPU waits for the first return of the one before it: then the tables are complete.
 */
static void pass_memory_on(struct vcpu *vcpu)
{
	if (vcpu->index < vcpus_with_memory)
		return;
	pthread_mutex_lock(&lock);
	vcpus_with_memory = vcpu->index + 1;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void run_guest(struct vcpu *vcpu)
{
	unsigned long kicks_left = vcpu->kicks;

	for (;;) {
		if (!ioctl(vcpu->fd, KVM_RUN, 0)) {
			if (!vcpu->rounds)
				pass_memory_on(vcpu);
			if (!arch_handle_exit(vcpu))
				return;
			continue;
		}
		if (errno != EINTR || !kicks_left)
			die("KVM_RUN");
		vcpu->run->immediate_exit = 0;
		tally(vcpu, USERSPACE, "restart", 1);
		if (!--kicks_left)
			arch_end_kicks(vcpu);
		atomic_fetch_add(&vcpu->kicked, 1);
	}
}

static void *vcpu_thread(void *argument)
{
	struct vcpu *vcpu = argument;
	char name[16];

	snprintf(name, sizeof(name), "CPU %d/KVM", vcpu->index);
	if (debug_threads)
		prctl(PR_SET_NAME, name);
	this_run = vcpu->run;
	vcpu->tid = syscall(SYS_gettid);
	pthread_mutex_lock(&lock);
	threads_started++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	for (int round = 1;; round++) {
		pthread_mutex_lock(&lock);
		while (rounds_started < round || vcpus_with_memory < vcpu->index)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);

		if (round == 1)
			vcpu->began_ns = now_ns();
		arch_start_round(vcpu); /* may run the guest */
		run_guest(vcpu);
		vcpu->parked_ns = now_ns();
		arch_end_round(vcpu);

		pthread_mutex_lock(&lock);
		vcpus_parked++;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

/* Send one signal at a time, and wait until KVM_RUN has returned: otherwise two signals could be merged. */
static void kick(struct vcpu *vcpu, unsigned long times)
{
	while (times--) {
		unsigned long before = atomic_load(&vcpu->kicked);

		pthread_kill(vcpu->thread, SIGUSR1);
		while (atomic_load(&vcpu->kicked) == before)
			usleep(200);
	}
}

static void hold(struct vcpu *vcpu)
{
	char line[64];

	printf("{\"holding\": %d}\n", vcpu->tid);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		die("no line on standard input ended the hold");
}

static void run_round(void)
{
	pthread_mutex_lock(&lock);
	/* A thread must not be kicked before it has set this_run. */
	while (threads_started < vm.vcpus)
		pthread_cond_wait(&changed, &lock);
	vcpus_parked = 0;
	rounds_started++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < vm.vcpus; i++) {
		struct vcpu *vcpu = &vm.vcpu[i];

		kick(vcpu, vcpu->kicks - vcpu->hold);
		if (vcpu->hold)
			hold(vcpu);
		kick(vcpu, vcpu->hold);
	}
	pthread_mutex_lock(&lock);
	while (vcpus_parked < vm.vcpus)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void print_tallies(const struct vcpu *vcpu, enum tally_of of, const char *name)
{
	const char *comma = "";

	printf(", \"%s\": {", name);
	for (const struct tally *t = vcpu->tallies; t->reason; t++) {
		if (t->of != of || !t->count)
			continue;
		printf("%s\"%s\": %lu", comma, t->reason, t->count);
		comma = ", ";
	}
	printf("}");
}

static void report(void)
{
	printf("{\"pid\": %d, \"vcpus\": [", getpid());
	for (int i = 0; i < vm.vcpus; i++) {
		const struct vcpu *vcpu = &vm.vcpu[i];

		printf("%s{\"index\": %d, \"tid\": %d", i ? ", " : "", i, vcpu->tid);
		print_tallies(vcpu, EXITS, "exits");
		print_tallies(vcpu, AT_MOST, "at_most");
		print_tallies(vcpu, USERSPACE, "userspace");
		printf(", \"sleep_ns\": %lu", vcpu->sleep_ns);
		printf(", \"began_ns\": %lu, \"parked_ns\": %lu}", vcpu->began_ns, vcpu->parked_ns);
	}
	printf("]}\n");
	fflush(stdout);
}

static void parse_vcpu(struct vcpu *vcpu, char *text)
{
	for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
		char *value = strchr(item, '=');
		int kind = 0;

		if (!value)
			die("-exact takes KIND=N,...");
		*value++ = 0;
		if (!strcmp(item, "kick")) {
			vcpu->kicks += strtoul(value, NULL, 10);
			continue;
		}
		if (!strcmp(item, "hold")) {
			vcpu->kicks++;
			vcpu->hold = true;
			continue;
		}
		while (arch_kinds[kind] && strcmp(arch_kinds[kind], item))
			kind++;
		if (!arch_kinds[kind])
			die(item);
		vcpu->want[kind] = strtoul(value, NULL, 10);
		if (!strcmp(item, "touch") && vcpu->want[kind] > MAX_TOUCH)
			die("touch: more pages than MAX_TOUCH");
	}
}

static void create_vm(void)
{
	size_t bytes = vm.vcpus * VCPU_PAGES * PAGE;
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = arch_memory,
		.memory_size = bytes,
	};
	uint8_t *memory;
	int run_bytes;

	vm.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm.kvm < 0)
		die("/dev/kvm");
	vm.fd = KVM_DO(vm.kvm, KVM_CREATE_VM, 0);
	arch_create_vm(&vm);
	run_bytes = KVM_DO(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	/* Only small pages, all of them present: then the first access to each page is exactly one exit. */
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap of the guest's memory");
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	memset(memory, 0, bytes);
	region.userspace_addr = (uintptr_t)memory;
	KVM_DO(vm.fd, KVM_SET_USER_MEMORY_REGION, &region);

	for (int i = 0; i < vm.vcpus; i++) {
		struct vcpu *vcpu = &vm.vcpu[i];

		vcpu->index = i;
		vcpu->memory = memory + i * VCPU_PAGES * PAGE;
		vcpu->fd = KVM_DO(vm.fd, KVM_CREATE_VCPU, (uintptr_t)i);
		vcpu->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
		if (vcpu->run == MAP_FAILED)
			die("mmap of a vCPU");
		arch_create_vcpu(&vm, vcpu);
	}
	arch_finish_vm(&vm);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_kick };
	char line[64];

	for (int i = 1; i + 1 < argc; i++) {
		if (strstr(argv[i], "debug-threads=on"))
			debug_threads = true;
		if (strcmp(argv[i], "-exact"))
			continue;
		if (vm.vcpus == MAX_VCPUS)
			die("more vCPUs than MAX_VCPUS");
		/* Parse a copy: strtok would change /proc/PID/cmdline. */
		parse_vcpu(&vm.vcpu[vm.vcpus++], strdup(argv[++i]));
	}
	sigaction(SIGUSR1, &action, NULL);
	create_vm();
	for (int i = 0; i < vm.vcpus; i++)
		if (pthread_create(&vm.vcpu[i].thread, NULL, vcpu_thread, &vm.vcpu[i]))
			die("pthread_create");
	do {
		run_round();
		report();
	} while (fgets(line, sizeof(line), stdin) && !strcmp(line, "again\n"));
	return 0;
}
