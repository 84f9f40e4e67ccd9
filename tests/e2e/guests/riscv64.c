// SPDX-License-Identifier: Apache-2.0
/*
 * The exact guest on riscv64. It runs in VS-mode, without address translation and with interrupts masked. All its data is
 * in registers. The comments name the exit that an instruction causes, and the return to the VMM if there is one.
 */
#include "vm.h"

#include <stddef.h>
#include <string.h>

#define NOWHERE 0x10000000UL /* no memory is here: an access causes KVM_EXIT_MMIO */
#define DONE 0x10001000UL
#define SLEEP_MS 5UL

enum { MMIO, LOAD, SBI, FORWARD, CSR, ILLEGAL, TOUCH, WFI };
const char *const arch_kinds[] = { "mmio", "load", "sbi", "forward", "csr", "illegal", "touch", "wfi", NULL };
const uint64_t arch_memory = 0x80000000UL;

extern const uint8_t guest_start[], guest_end[];

/*
 * gp NOWHERE, tp DONE, sp the next page to touch, a5 ticks of one sleep.
 * s0..s7: number left of each kind; s8..s11 and t3..t6: number done of each kind; a4: ticks slept;
 * a3: spin while not 0. An SBI call changes a0 and a1 only.
 */
asm(	".pushsection .rodata\n"
	".globl	guest_start, guest_end\n"
	".option push\n"
	".option norvc\n"			/* each instruction has four bytes */
	".option norelax\n"
	".balign 4\n"
	"guest_start:\n"
	"	lla	t0, 20f\n"		/* an exception that KVM passes on ... */
	"	csrw	stvec, t0\n"		/* ... continues there */
	"	li	t0, 0x20\n"		/* STIE: the timer's interrupt ... */
	"	csrw	sie, t0\n"		/* ... ends a WFI */
	"1:	beqz	s0, 2f\n"
	"	sw	s8, 0(gp)\n"		/* no memory is there: exit STORE_GUEST_PAGE_FAULT, return KVM_EXIT_MMIO */
	"	addi	s8, s8, 1\n"		/* one store done */
	"	addi	s0, s0, -1\n"		/* one fewer to do */
	"	j	1b\n"
	"2:	beqz	s1, 3f\n"
	"	lw	t1, 0(gp)\n"		/* no memory is there: exit LOAD_GUEST_PAGE_FAULT, return KVM_EXIT_MMIO */
	"	addi	s9, s9, 1\n"		/* one load done */
	"	addi	s1, s1, -1\n"		/* one fewer to do */
	"	j	2b\n"
	"3:	beqz	s2, 4f\n"
	"	li	a7, 0x10\n"		/* the base extension ... */
	"	li	a6, 0\n"		/* ... get_spec_version, which the kernel answers */
	"	ecall\n"			/* exit SUPERVISOR_SYSCALL */
	"	addi	s10, s10, 1\n"		/* one call done */
	"	addi	s2, s2, -1\n"		/* one fewer to do */
	"	j	3b\n"
	"4:	beqz	s3, 5f\n"
	"	li	a7, 0x08000000\n"	/* an experimental extension, which the VMM answers */
	"	ecall\n"			/* exit SUPERVISOR_SYSCALL, return KVM_EXIT_RISCV_SBI */
	"	addi	s11, s11, 1\n"		/* one call done */
	"	addi	s3, s3, -1\n"		/* one fewer to do */
	"	j	4b\n"
	"5:	beqz	s4, 6f\n"
	"	csrr	t1, instret\n"		/* exit VIRTUAL_INST_FAULT: KVM lets guests read only the time */
	"	addi	t3, t3, 1\n"		/* one read done */
	"	addi	s4, s4, -1\n"		/* one fewer to do */
	"	j	5b\n"
	"6:	beqz	s5, 7f\n"
	"	.word	0\n"			/* exit INST_ILLEGAL; KVM passes the exception on to 20 */
	"	addi	t4, t4, 1\n"		/* one exception done */
	"	addi	s5, s5, -1\n"		/* one fewer to do */
	"	j	6b\n"
	"7:	beqz	s6, 8f\n"
	"	sw	t5, 0(sp)\n"		/* the page's first access: exit STORE_GUEST_PAGE_FAULT, no return to the VMM */
	"	li	t1, 4096\n"
	"	add	sp, sp, t1\n"		/* the next page */
	"	addi	t5, t5, 1\n"		/* one page touched */
	"	addi	s6, s6, -1\n"		/* one fewer to do */
	"	j	7b\n"
	"8:	beqz	s7, 10f\n"
	"	rdtime	t1\n"			/* the time when the sleep begins */
	"	add	t2, t1, a5\n"		/* the time when the timer fires */
	"	mv	a0, t2\n"
	"	li	a7, 0x54494d45\n"	/* the timer extension ... */
	"	li	a6, 0\n"		/* ... set_timer, which the kernel answers */
	"	ecall\n"			/* exit SUPERVISOR_SYSCALL */
	"	addi	s10, s10, 1\n"		/* counted together with the calls above */
	"9:	wfi\n"				/* exit VIRTUAL_INST_FAULT */
	"	addi	t6, t6, 1\n"		/* one WFI done */
	"	rdtime	t0\n"
	"	bltu	t0, t2, 9b\n"		/* if it was not the timer, sleep again */
	"	sub	t0, t0, t1\n"		/* ticks of this sleep */
	"	add	a4, a4, t0\n"		/* ticks of all sleeps */
	"	addi	s7, s7, -1\n"		/* one fewer to do */
	"	j	8b\n"
	"10:	bnez	a3, 10b\n"		/* spin until the host's last kick */
	"	sw	s8, 0(tp)\n"		/* exit STORE_GUEST_PAGE_FAULT, return KVM_EXIT_MMIO; the next entry starts a round */
	"	j	guest_start\n"
	".balign 4\n"
	"20:	csrr	t0, sepc\n"
	"	addi	t0, t0, 4\n"		/* skip the instruction */
	"	csrw	sepc, t0\n"
	"	sret\n"
	"guest_end:\n"
	".option pop\n"
	".popsection\n");

static uint64_t core_register(size_t offset)
{
	return KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_CORE | offset / sizeof(unsigned long);
}

#define CORE(name) core_register(offsetof(struct kvm_riscv_core, regs.name))
#define FREQUENCY (KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_TIMER | KVM_REG_RISCV_TIMER_REG(frequency))

static const size_t left[] = {
	offsetof(struct kvm_riscv_core, regs.s0), offsetof(struct kvm_riscv_core, regs.s1),
	offsetof(struct kvm_riscv_core, regs.s2), offsetof(struct kvm_riscv_core, regs.s3),
	offsetof(struct kvm_riscv_core, regs.s4), offsetof(struct kvm_riscv_core, regs.s5),
	offsetof(struct kvm_riscv_core, regs.s6), offsetof(struct kvm_riscv_core, regs.s7),
};
static const size_t done[] = {
	offsetof(struct kvm_riscv_core, regs.s8), offsetof(struct kvm_riscv_core, regs.s9),
	offsetof(struct kvm_riscv_core, regs.s10), offsetof(struct kvm_riscv_core, regs.s11),
	offsetof(struct kvm_riscv_core, regs.t3), offsetof(struct kvm_riscv_core, regs.t4),
	offsetof(struct kvm_riscv_core, regs.t5), offsetof(struct kvm_riscv_core, regs.t6),
};

void arch_create_vm(struct vm *vm)
{
	(void)vm;
}

void arch_create_vcpu(struct vm *vm, struct vcpu *vcpu)
{
	struct kvm_mp_state running = { .mp_state = KVM_MP_STATE_RUNNABLE };

	(void)vm;
	memcpy(vcpu->memory, guest_start, guest_end - guest_start);
	set_register(vcpu, CORE(pc), guest_memory(vcpu));
	KVM_DO(vcpu->fd, KVM_SET_MP_STATE, &running); /* otherwise every vCPU except the first waits to be started */
}

void arch_finish_vm(struct vm *vm)
{
	(void)vm;
}

void arch_start_round(struct vcpu *vcpu)
{
	set_register(vcpu, CORE(gp), NOWHERE);
	set_register(vcpu, CORE(tp), DONE);
	set_register(vcpu, CORE(sp), guest_memory(vcpu) + PAGE);
	set_register(vcpu, CORE(a5), get_register(vcpu, FREQUENCY) * SLEEP_MS / 1000);
	for (int kind = MMIO; kind <= WFI; kind++) {
		set_register(vcpu, core_register(done[kind]), 0);
		set_register(vcpu, core_register(left[kind]), vcpu->want[kind]);
	}
	set_register(vcpu, CORE(a4), 0);
	set_register(vcpu, CORE(a3), vcpu->kicks);
}

void arch_end_kicks(struct vcpu *vcpu)
{
	set_register(vcpu, CORE(a3), 0);
}

bool arch_handle_exit(struct vcpu *vcpu)
{
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_MMIO:
		tally(vcpu, USERSPACE, "KVM_EXIT_MMIO", 1);
		return vcpu->run->mmio.phys_addr != DONE;
	case KVM_EXIT_RISCV_SBI:
		tally(vcpu, USERSPACE, "KVM_EXIT_RISCV_SBI", 1);
		return true;
	default:
		die("KVM_RUN returned neither KVM_EXIT_MMIO nor KVM_EXIT_RISCV_SBI nor EINTR");
		return false;
	}
}

void arch_end_round(struct vcpu *vcpu)
{
	uint64_t did[WFI + 1];

	for (int kind = MMIO; kind <= WFI; kind++) {
		did[kind] = get_register(vcpu, core_register(done[kind]));
		if (get_register(vcpu, core_register(left[kind])) || did[kind] < vcpu->want[kind])
			die("the guest did not finish its work");
	}
	tally(vcpu, EXITS, "EXC_STORE_GUEST_PAGE_FAULT", did[MMIO] + 1);
	tally(vcpu, EXITS, "EXC_LOAD_GUEST_PAGE_FAULT", did[LOAD]);
	tally(vcpu, EXITS, "EXC_SUPERVISOR_SYSCALL", did[SBI] + did[FORWARD]);
	tally(vcpu, EXITS, "CSR", did[CSR]);
	tally(vcpu, EXITS, "EXC_INST_ILLEGAL", did[ILLEGAL]);
	tally(vcpu, EXITS, "WFI", did[WFI]);
	if (!vcpu->rounds++) {
		tally(vcpu, EXITS, "EXC_STORE_GUEST_PAGE_FAULT", did[TOUCH]);
		tally(vcpu, EXITS, "EXC_INST_GUEST_PAGE_FAULT", 1); /* the one page of code */
	}
	vcpu->sleep_ns += get_register(vcpu, CORE(a4)) * 1000000000UL / get_register(vcpu, FREQUENCY);
}
