// SPDX-License-Identifier: Apache-2.0
/*
 * The exact guest on arm64. It runs at EL1, without the MMU and with interrupts masked. All its data is in registers.
 * The comments name the exit that an instruction causes, and the return to the VMM if there is one.
 */
#include "vm.h"

#include <stddef.h>
#include <string.h>

#define GICD 0x08000000UL
#define GICD_CTLR 0
#define GICR 0x080a0000UL
#define GICR_ISENABLER0 0x10100
#define TIMER_INTID 27
#define NOWHERE 0x09000000UL /* no memory is here: a store causes KVM_EXIT_MMIO */
#define DONE 0x09001000UL
#define SLEEP_MS 5UL

enum { MMIO, HVC, SYS, TOUCH, WFI };
const char *const arch_kinds[] = { "mmio", "hvc", "sys", "touch", "wfi", NULL };
const uint64_t arch_memory = 0x40000000UL;

extern const uint8_t guest_start[], guest_end[];

/*
 * x4 NOWHERE, x5 DONE, x6 the next page to touch, x7 ticks of one sleep.
 * x19..x23: number left of each kind; x10..x14: number done of each kind; x15: ticks slept;
 * x24: spin while not 0.
 */
asm(	".pushsection .rodata\n"
	".globl	guest_start, guest_end\n"
	"guest_start:\n"
	"1:	cbz	x19, 2f\n"
	"	str	w10, [x4]\n"		/* no memory is there: exit DABT_LOW, return KVM_EXIT_MMIO */
	"	add	x10, x10, #1\n"		/* one store done */
	"	sub	x19, x19, #1\n"		/* one fewer to do */
	"	b	1b\n"
	"2:	cbz	x20, 3f\n"
	"	mov	w0, #0x84000000\n"	/* PSCI_VERSION, which the kernel answers */
	"	hvc	#0\n"			/* exit HVC64; the call changes x0 to x3 */
	"	add	x11, x11, #1\n"		/* one call done */
	"	sub	x20, x20, #1\n"		/* one fewer to do */
	"	b	2b\n"
	"3:	cbz	x21, 4f\n"
	"	mrs	x0, id_aa64pfr0_el1\n"	/* exit SYS64, because KVM always sets HCR_EL2.TID3 */
	"	add	x12, x12, #1\n"		/* one read done */
	"	sub	x21, x21, #1\n"		/* one fewer to do */
	"	b	3b\n"
	"4:	cbz	x22, 5f\n"
	"	str	w13, [x6]\n"		/* the page's first access: exit DABT_LOW, no return to the VMM */
	"	add	x6, x6, #4096\n"	/* the next page */
	"	add	x13, x13, #1\n"		/* one page touched */
	"	sub	x22, x22, #1\n"		/* one fewer to do */
	"	b	4b\n"
	"5:	cbz	x23, 6f\n"
	"	mov	x0, #0xff\n"		/* every priority ... */
	"	msr	icc_pmr_el1, x0\n"	/* ... is allowed */
	"	mov	x0, #1\n"		/* x0 = ENABLE, for the next msr and for cntv_ctl_el0 */
	"	msr	icc_igrpen1_el1, x0\n"	/* group 1 is the timer's group */
	"	mrs	x8, cntvct_el0\n"	/* the time when the sleep begins */
	"	msr	cntv_tval_el0, x7\n"	/* the timer fires in x7 ticks */
	"	msr	cntv_ctl_el0, x0\n"	/* start it */
	"	isb\n"				/* the timer must run before the WFI */
	"7:	wfi\n"				/* exit WFx, unless an interrupt is pending */
	"	add	x14, x14, #1\n"		/* one WFI done */
	"	mrs	x0, icc_iar1_el1\n"	/* acknowledge the interrupt */
	"	cmp	w0, #27\n"		/* if it was not the timer's, ... */
	"	b.ne	7b\n"			/* ... sleep again */
	"	msr	cntv_ctl_el0, xzr\n"	/* stop the timer, or it fires again at ... */
	"	isb\n"
	"	msr	icc_eoir1_el1, x0\n"	/* ... the end of this interrupt */
	"	isb\n"				/* end the interrupt before reading the counter */
	"	mrs	x9, cntvct_el0\n"	/* the time when the sleep ended */
	"	sub	x9, x9, x8\n"		/* ticks of this sleep */
	"	add	x15, x15, x9\n"		/* ticks of all sleeps */
	"	sub	x23, x23, #1\n"		/* one fewer to do */
	"	b	5b\n"
	"6:	cbnz	x24, 6b\n"		/* spin until the host's last kick */
	"	str	w10, [x5]\n"		/* exit DABT_LOW, return KVM_EXIT_MMIO; the next entry starts a round */
	"	b	guest_start\n"
	"guest_end:\n"
	".popsection\n");

static uint64_t frequency(void)
{
	uint64_t hz;

	asm("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz;
}

static uint64_t core_register(size_t offset)
{
	return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | (offset / sizeof(uint32_t));
}

#define X(n) core_register(offsetof(struct kvm_regs, regs.regs[n]))
#define PC core_register(offsetof(struct kvm_regs, regs.pc))

void arch_create_vm(struct vm *vm)
{
	(void)vm;
}

void arch_create_vcpu(struct vm *vm, struct vcpu *vcpu)
{
	struct kvm_vcpu_init init;

	KVM_DO(vm->fd, KVM_ARM_PREFERRED_TARGET, &init);
	init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
	KVM_DO(vcpu->fd, KVM_ARM_VCPU_INIT, &init);
	memcpy(vcpu->memory, guest_start, guest_end - guest_start);
	set_register(vcpu, PC, guest_memory(vcpu));
}

static void set_gic(int gic, uint32_t group, uint64_t attribute, void *value)
{
	struct kvm_device_attr attr = { .group = group, .attr = attribute, .addr = (uintptr_t)value };

	KVM_DO(gic, KVM_SET_DEVICE_ATTR, &attr);
}

/*
 * Only an interrupt that the controller would deliver ends a WFI, so the timer's interrupt must be enabled. The
 * host does it here, because stores of the guest to the controller would be exits.
 */
void arch_finish_vm(struct vm *vm)
{
	struct kvm_create_device gic = { .type = KVM_DEV_TYPE_ARM_VGIC_V3 };
	uint64_t distributor = GICD, redistributor = GICR;
	uint32_t group1_enabled = 1 << 1, timer = 1 << TIMER_INTID;

	KVM_DO(vm->fd, KVM_CREATE_DEVICE, &gic);
	set_gic(gic.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor);
	set_gic(gic.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redistributor);
	set_gic(gic.fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
	set_gic(gic.fd, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_CTLR, &group1_enabled);
	for (uint64_t i = 0; i < (uint64_t)vm->vcpus; i++)
		set_gic(gic.fd, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, i << 32 | GICR_ISENABLER0, &timer);
}

void arch_start_round(struct vcpu *vcpu)
{
	set_register(vcpu, X(4), NOWHERE);
	set_register(vcpu, X(5), DONE);
	set_register(vcpu, X(6), guest_memory(vcpu) + PAGE);
	set_register(vcpu, X(7), frequency() * SLEEP_MS / 1000);
	for (int kind = MMIO; kind <= WFI; kind++) {
		set_register(vcpu, X(10 + kind), 0);
		set_register(vcpu, X(19 + kind), vcpu->want[kind]);
	}
	set_register(vcpu, X(15), 0);
	set_register(vcpu, X(24), vcpu->kicks);
}

void arch_end_kicks(struct vcpu *vcpu)
{
	set_register(vcpu, X(24), 0);
}

bool arch_handle_exit(struct vcpu *vcpu)
{
	if (vcpu->run->exit_reason != KVM_EXIT_MMIO)
		die("KVM_RUN returned neither KVM_EXIT_MMIO nor EINTR");
	tally(vcpu, USERSPACE, "KVM_EXIT_MMIO", 1);
	return vcpu->run->mmio.phys_addr != DONE;
}

void arch_end_round(struct vcpu *vcpu)
{
	uint64_t did[WFI + 1];

	for (int kind = MMIO; kind <= WFI; kind++) {
		did[kind] = get_register(vcpu, X(10 + kind));
		/* The guest repeats a WFI that ends early. */
		if (kind == WFI ? did[kind] < vcpu->want[kind] : did[kind] != vcpu->want[kind])
			die("the guest did not finish its work");
	}
	tally(vcpu, EXITS, "EC_DABT_LOW", did[MMIO] + 1);
	tally(vcpu, EXITS, "EC_HVC64", did[HVC]);
	tally(vcpu, EXITS, "EC_SYS64", did[SYS]);
	tally(vcpu, AT_MOST, "EC_WFx", did[WFI]);
	if (!vcpu->rounds++) {
		tally(vcpu, EXITS, "EC_DABT_LOW", did[TOUCH]);
		tally(vcpu, EXITS, "EC_IABT_LOW", 1); /* the one page of code */
	}
	vcpu->sleep_ns += get_register(vcpu, X(15)) * 1000000000UL / frequency();
}
