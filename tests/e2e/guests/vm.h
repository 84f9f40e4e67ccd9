/* SPDX-License-Identifier: Apache-2.0 */
/* A virtual machine on raw /dev/kvm that counts the exits of each of its vCPUs by reason. */
#ifndef VM_H
#define VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096UL
#define MAX_VCPUS 4
#define MAX_KINDS 12
#define MAX_TALLIES 24
#define MAX_TOUCH 46 /* pages that a vCPU can touch; all pages of a VM fit in the first MiB */

enum tally_of {
	EXITS, /* exits of a reason: the exact number */
	AT_MOST, /* exits of a reason: an upper bound, because the CPU may skip some */
	USERSPACE, /* returns of KVM_RUN by reason */
};

struct tally {
	enum tally_of of;
	const char *reason;
	unsigned long count;
};

struct vcpu {
	int index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	int tid;
	uint8_t *memory; /* this vCPU's pages, VCPU_PAGES of them */
	unsigned long want[MAX_KINDS]; /* per round, in the order of arch_kinds */
	unsigned long kicks; /* signals that interrupt it, per round */
	bool hold; /* the last signal waits for a line on standard input */
	atomic_ulong kicked; /* in all rounds */
	int rounds; /* done */
	uint64_t began_ns, parked_ns; /* CLOCK_MONOTONIC before the first KVM_RUN and after the last */
	unsigned long sleep_ns; /* all sleeps, measured by the guest's own clock */
	struct tally tallies[MAX_TALLIES];
};

#define VCPU_PAGES (MAX_TOUCH + 2)

struct vm {
	int kvm, fd;
	int vcpus;
	struct vcpu vcpu[MAX_VCPUS];
};

/* Each architecture defines these. */
extern const char *const arch_kinds[]; /* NULL at the end; "kick" and "hold" exist on all */
extern const uint64_t arch_memory; /* guest-physical address of the first vCPU's pages */
void arch_create_vm(struct vm *vm); /* called before the vCPUs are created */
void arch_create_vcpu(struct vm *vm, struct vcpu *vcpu);
void arch_finish_vm(struct vm *vm); /* called after the vCPUs are created */
void arch_start_round(struct vcpu *vcpu);
void arch_end_kicks(struct vcpu *vcpu); /* ends the guest's spinning */
bool arch_handle_exit(struct vcpu *vcpu); /* false when the guest is done */
void arch_end_round(struct vcpu *vcpu);

void die(const char *what);
uint64_t now_ns(void); /* CLOCK_MONOTONIC */
int kvm_do(int fd, unsigned long request, const char *name, void *argument);
#define KVM_DO(fd, request, argument) kvm_do(fd, request, #request, (void *)(argument))
uint64_t guest_memory(const struct vcpu *vcpu); /* guest-physical address of its pages */
void set_register(struct vcpu *vcpu, uint64_t id, uint64_t value); /* not on amd64: KVM_SET_ONE_REG */
uint64_t get_register(struct vcpu *vcpu, uint64_t id);
void tally(struct vcpu *vcpu, enum tally_of of, const char *reason, unsigned long count);

#endif
