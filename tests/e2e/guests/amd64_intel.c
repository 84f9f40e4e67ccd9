// SPDX-License-Identifier: Apache-2.0
/*
 * What no healthy guest does, on Intel: VM entries that fail in both ways of VMX, and triple faults. The reasons of the
 * CPU are in the Intel SDM, volume 3, "VM entries".
 */
#include "amd64.h"

#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#define CR0_PE 1
#define PAGE_FAULT 14

static unsigned long wanted(const struct vcpu *vcpu, const char *name)
{
	for (int kind = 0; arch_kinds[kind]; kind++)
		if (!strcmp(arch_kinds[kind], name))
			return vcpu->want[kind];
	return 0;
}

static void run_until(struct vcpu *vcpu, uint32_t reason, const char *name)
{
	KVM_DO(vcpu->fd, KVM_RUN, 0);
	if (vcpu->run->exit_reason != reason)
		die(name);
	tally(vcpu, USERSPACE, name, 1);
}

/* A task register of type 0 is invalid guest state: the CPU loads the state, and exits with INVALID_STATE. */
static void refuse(struct vcpu *vcpu, unsigned long times)
{
	struct kvm_sregs good, bad;

	KVM_DO(vcpu->fd, KVM_GET_SREGS, &good);
	bad = good;
	bad.tr.type = 0;
	bad.tr.unusable = 0;
	bad.tr.present = 1;
	KVM_DO(vcpu->fd, KVM_SET_SREGS, &bad);
	for (unsigned long i = 0; i < times; i++)
		run_until(vcpu, KVM_EXIT_FAIL_ENTRY, "KVM_EXIT_FAIL_ENTRY");
	KVM_DO(vcpu->fd, KVM_SET_SREGS, &good);
	tally(vcpu, EXITS, "INVALID_STATE FAILED_VMENTRY", times);
}

/* An undefined instruction (KVM intercepts it, and then injects the fault), and no interrupt table. */
static void crash(struct vcpu *vcpu, unsigned long times, uint64_t undefined)
{
	struct kvm_sregs sregs, bad_sregs;
	struct kvm_regs regs, bad_regs;
	struct kvm_vcpu_events events;

	KVM_DO(vcpu->fd, KVM_GET_SREGS, &sregs);
	KVM_DO(vcpu->fd, KVM_GET_REGS, &regs);
	KVM_DO(vcpu->fd, KVM_GET_VCPU_EVENTS, &events);
	bad_sregs = sregs;
	bad_sregs.idt.limit = 0;
	bad_regs = regs;
	bad_regs.rip = undefined;
	for (unsigned long i = 0; i < times; i++) {
		KVM_DO(vcpu->fd, KVM_SET_SREGS, &bad_sregs);
		KVM_DO(vcpu->fd, KVM_SET_REGS, &bad_regs);
		run_until(vcpu, KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN");
		KVM_DO(vcpu->fd, KVM_SET_SREGS, &sregs);
		KVM_DO(vcpu->fd, KVM_SET_REGS, &regs);
		KVM_DO(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
	}
	tally(vcpu, EXITS, "EXCEPTION_NMI", times);
	tally(vcpu, EXITS, "TRIPLE_FAULT", times);
}

void intel_start(struct vcpu *vcpu, uint64_t undefined)
{
	unsigned long refused = wanted(vcpu, "refused"), crashes = wanted(vcpu, "crash");

	if (refused)
		refuse(vcpu, refused);
	if (crashes)
		crash(vcpu, crashes, undefined);
}

/*
 * A page fault to inject that has no error code, in protected mode, is an invalid control: the VMLAUNCH or VMRESUME
 * instruction itself fails (VMfailValid), and there is no exit.
 */
void intel_end(struct vcpu *vcpu)
{
	unsigned long times = wanted(vcpu, "failed");
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;

	if (!times)
		return;
	if (vcpu->rounds)
		die("\"failed\" allows only one round");
	KVM_DO(vcpu->fd, KVM_GET_SREGS, &sregs);
	KVM_DO(vcpu->fd, KVM_GET_VCPU_EVENTS, &events);
	sregs.cr0 |= CR0_PE;
	events.exception.injected = 1;
	events.exception.nr = PAGE_FAULT;
	events.exception.has_error_code = 0;
	KVM_DO(vcpu->fd, KVM_SET_SREGS, &sregs);
	KVM_DO(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
	for (unsigned long i = 0; i < times; i++)
		run_until(vcpu, KVM_EXIT_FAIL_ENTRY, "KVM_EXIT_FAIL_ENTRY");
}
