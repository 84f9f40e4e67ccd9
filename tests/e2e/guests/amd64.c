// SPDX-License-Identifier: Apache-2.0
/*
 * The exact guest on amd64, with AMD's SVM or Intel's VMX. It runs in real mode, and its counters are in its own memory. The first page of a vCPU
 * holds the code, the second page its interrupt table, counters and stack. Code and data have separate pages, because
 * code in a page with changing data is slow to emulate.
 */
#include "amd64.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* No memory is here: a store causes KVM_EXIT_MMIO. KVM's tables for it are those of the memory. See vm.c. */
#define NOWHERE 0x180000UL
#define PORT_DONE 0x11
#define TIMER_VECTOR 0x20
#define SLEEP_NS 5000000 /* KVM's local APIC timer counts nanoseconds */
#define STRING(macro) STRING_(macro)
#define STRING_(text) #text
#define TSC_PROBE_NS 20000000L

/* The guest's code does the work of the kinds before KINDS. intel.c does that of the others. */
enum { IO, CPUID, MSR, MMIO, TOUCH, HLT, VMCALL, KINDS };
const char *const arch_kinds[] = { "io", "cpuid", "msr", "mmio", "touch", "hlt", "vmcall", INTEL_KINDS, NULL };
const uint64_t arch_memory = 0x10000UL;

/* This structure is at DATA in the second page. The assembly below repeats its offsets. */
#define DATA 0x400
struct guest_data {
	uint32_t left[KINDS];
	uint32_t spin;
	uint32_t touch_at; /* linear address of the next page to touch */
	uint32_t done[KINDS];
	uint32_t wrmsr; /* done[MSR] counts only rdmsr */
	uint32_t unused;
	uint64_t slept; /* TSC ticks */
	uint64_t began;
};

extern const uint8_t guest_start[], guest_timer[], guest_undefined[], guest_end[];

/*
 * DS and SS are the second page. ES begins at NOWHERE, with a page for each vCPU. FS begins at 0. The comments name the exit that an instruction
 * causes, and the return to the VMM if there is one.
 */
asm(	".pushsection .rodata\n"
	".globl	guest_start, guest_timer, guest_undefined, guest_end\n"
	".set	left, 0x400\n"
	".set	spin, 0x41c\n"
	".set	touch_at, 0x420\n"
	".set	done, 0x424\n"
	".set	wrmsr, 0x440\n"
	".set	slept, 0x448\n"
	".set	began, 0x450\n"
	".code16\n"
	"guest_start:\n"
	"1:	cmpl	$0, left + 4 * 0\n"
	"	je	2f\n"
	"	outb	%al, $0x10\n"		/* the port is unused: exit io, return KVM_EXIT_IO */
	"	incl	done + 4 * 0\n"
	"	decl	left + 4 * 0\n"
	"	jmp	1b\n"
	"2:	cmpl	$0, left + 4 * 1\n"
	"	je	3f\n"
	"	xorl	%eax, %eax\n"		/* leaf 0 */
	"	cpuid\n"			/* exit cpuid */
	"	incl	done + 4 * 1\n"
	"	decl	left + 4 * 1\n"
	"	jmp	2b\n"
	"3:	cmpl	$0, left + 4 * 2\n"
	"	je	4f\n"
	"	movl	$0x1b, %ecx\n"		/* IA32_APIC_BASE */
	"	rdmsr\n"			/* exit msr */
	"	incl	done + 4 * 2\n"
	"	decl	left + 4 * 2\n"
	"	jmp	3b\n"
	"4:	cmpl	$0, left + 4 * 3\n"
	"	je	5f\n"
	"	movb	%al, %es:0\n"		/* no memory is there: exit npf, return KVM_EXIT_MMIO */
	"	incl	done + 4 * 3\n"
	"	decl	left + 4 * 3\n"
	"	jmp	4b\n"
	"5:	cmpl	$0, left + 4 * 4\n"
	"	je	6f\n"
	"	movl	touch_at, %edi\n"
	"	movb	%al, %fs:(%edi)\n"	/* the page's first access: exit npf, no return to the VMM */
	"	addl	$0x1000, touch_at\n"	/* the next page */
	"	incl	done + 4 * 4\n"
	"	decl	left + 4 * 4\n"
	"	jmp	5b\n"
	"6:	cmpl	$0, left + 4 * 5\n"
	"	je	7f\n"
	"	rdtsc\n"			/* the time when the sleep begins; causes no exit */
	"	movl	%eax, began\n"
	"	movl	%edx, began + 4\n"
	"	movl	$0x838, %ecx\n"		/* x2APIC initial count */
	"	movl	$" STRING(SLEEP_NS) ", %eax\n"
	"	xorl	%edx, %edx\n"		/* upper half of the count */
	"	wrmsr\n"			/* exit msr: start the timer */
	"	incl	wrmsr\n"
	"	sti\n"				/* allow interrupts from the end of the next instruction on */
	"	hlt\n"				/* exit hlt: sleep until guest_timer has run */
	"	cli\n"
	"	rdtsc\n"			/* the time when the sleep ended */
	"	subl	began, %eax\n"		/* length of the sleep, ... */
	"	sbbl	began + 4, %edx\n"	/* ... both halves */
	"	addl	%eax, slept\n"		/* the sum of all sleeps, ... */
	"	adcl	%edx, slept + 4\n"	/* ... both halves */
	"	incl	done + 4 * 5\n"
	"	decl	left + 4 * 5\n"
	"	jmp	6b\n"
	"7:	cmpl	$0, left + 4 * 6\n"
	"	je	8f\n"
	"	movl	$1, %eax\n"		/* KVM_HC_VAPIC_POLL_IRQ does nothing */
	"	vmcall\n"			/* exit vmcall */
	"	incl	done + 4 * 6\n"
	"	decl	left + 4 * 6\n"
	"	jmp	7b\n"
	"8:	cmpl	$0, spin\n"		/* spin until the host's last kick */
	"	jne	8b\n"
	"	outb	%al, $" STRING(PORT_DONE) "\n" /* exit io, return KVM_EXIT_IO; the next entry starts a round */
	"	jmp	guest_start\n"
	"guest_timer:\n"
	"	movl	$0x80b, %ecx\n"		/* x2APIC end of interrupt */
	"	xorl	%eax, %eax\n"		/* the only valid value, ... */
	"	xorl	%edx, %edx\n"		/* ... both halves */
	"	wrmsr\n"			/* msr */
	"	incl	wrmsr\n"
	"	iretw\n"
	"guest_undefined:\n"
	"	ud2\n"
	"guest_end:\n"
	".code64\n"
	".popsection\n");

static volatile struct guest_data *guest_data(struct vcpu *vcpu)
{
	return (volatile struct guest_data *)(vcpu->memory + PAGE + DATA);
}

bool on_intel(void)
{
	unsigned int eax, ebx, ecx, edx;

	__cpuid(0, eax, ebx, ecx, edx);
	return ebx == signature_INTEL_ebx;
}

void arch_create_vm(struct vm *vm)
{
	KVM_DO(vm->fd, KVM_CREATE_IRQCHIP, 0); /* timer interrupts without returns to user space */
}

static void set_cpuid(struct vm *vm, struct vcpu *vcpu)
{
	const size_t entries = 256;
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + entries * sizeof(cpuid->entries[0]));

	cpuid->nent = entries;
	KVM_DO(vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
	KVM_DO(vcpu->fd, KVM_SET_CPUID2, cpuid);
	free(cpuid);
}

static void set_apic_register(struct kvm_lapic_state *apic, int offset, uint32_t value)
{
	memcpy(apic->regs + offset, &value, sizeof(value));
}

static void set_apic(struct vcpu *vcpu)
{
	struct kvm_lapic_state apic;

	KVM_DO(vcpu->fd, KVM_GET_LAPIC, &apic);
	set_apic_register(&apic, 0xf0, 0x1ff); /* spurious vector: enabled */
	set_apic_register(&apic, 0x320, TIMER_VECTOR); /* timer: one shot */
	set_apic_register(&apic, 0x3e0, 0xb); /* timer divider: 1 */
	KVM_DO(vcpu->fd, KVM_SET_LAPIC, &apic);
}

static void set_segment(struct kvm_segment *segment, uint64_t base, uint32_t limit)
{
	segment->base = base;
	segment->selector = base >> 4;
	segment->limit = limit;
	segment->g = limit > 0xfffff; /* Intel's CPUs refuse large limits that do not count pages */
}

void arch_create_vcpu(struct vm *vm, struct vcpu *vcpu)
{
	struct kvm_regs regs = { .rflags = 2, .rsp = PAGE };
	struct kvm_mp_state running = { .mp_state = KVM_MP_STATE_RUNNABLE };
	uint64_t code = guest_memory(vcpu), data = code + PAGE;
	uint16_t *vector = (uint16_t *)(vcpu->memory + PAGE + 4 * TIMER_VECTOR);
	struct kvm_sregs sregs;

	memcpy(vcpu->memory, guest_start, guest_end - guest_start);
	vector[0] = guest_timer - guest_start;
	vector[1] = code >> 4;

	set_cpuid(vm, vcpu);
	KVM_DO(vcpu->fd, KVM_GET_SREGS, &sregs);
	sregs.apic_base |= 1 << 10; /* x2APIC: its registers are MSRs */
	sregs.idt.base = data;
	sregs.idt.limit = 4 * 256 - 1;
	set_segment(&sregs.cs, code, 0xffff);
	set_segment(&sregs.ds, data, 0xffff);
	set_segment(&sregs.ss, data, 0xffff);
	set_segment(&sregs.es, NOWHERE + vcpu->index * PAGE, 0xffff);
	set_segment(&sregs.fs, 0, 0xffffffff);
	KVM_DO(vcpu->fd, KVM_SET_SREGS, &sregs);
	KVM_DO(vcpu->fd, KVM_SET_REGS, &regs);
	set_apic(vcpu);
	KVM_DO(vcpu->fd, KVM_SET_MP_STATE, &running); /* otherwise every vCPU except the first waits for a SIPI */
}

void arch_finish_vm(struct vm *vm)
{
	(void)vm;
}

void arch_start_round(struct vcpu *vcpu)
{
	volatile struct guest_data *data = guest_data(vcpu);

	for (int kind = 0; kind < KINDS; kind++) {
		data->done[kind] = 0;
		data->left[kind] = vcpu->want[kind];
	}
	data->touch_at = guest_memory(vcpu) + 2 * PAGE;
	data->wrmsr = 0;
	data->slept = 0;
	data->spin = vcpu->kicks;
	if (!vcpu->rounds)
		intel_start(vcpu, guest_undefined - guest_start);
}

void arch_end_kicks(struct vcpu *vcpu)
{
	guest_data(vcpu)->spin = 0;
}

bool arch_handle_exit(struct vcpu *vcpu)
{
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		tally(vcpu, USERSPACE, "KVM_EXIT_IO", 1);
		if (vcpu->run->io.port != PORT_DONE)
			return true;
		intel_end(vcpu);
		return false;
	case KVM_EXIT_MMIO:
		tally(vcpu, USERSPACE, "KVM_EXIT_MMIO", 1);
		return true;
	default:
		die("KVM_RUN returned neither KVM_EXIT_IO nor KVM_EXIT_MMIO nor EINTR");
		return false;
	}
}

/* Measure the TSC's frequency, because not every host has it in CPUID. */
static double ns_per_tick(void)
{
	struct timespec probe = { .tv_nsec = TSC_PROBE_NS };
	uint64_t ticks = __builtin_ia32_rdtsc(), ns = now_ns();

	nanosleep(&probe, NULL);
	return (double)(now_ns() - ns) / (__builtin_ia32_rdtsc() - ticks);
}

static void tally_amd(struct vcpu *vcpu, volatile struct guest_data *data)
{
	tally(vcpu, EXITS, "io", data->done[IO] + 1);
	tally(vcpu, EXITS, "cpuid", data->done[CPUID]);
	tally(vcpu, EXITS, "msr", data->done[MSR] + data->wrmsr);
	tally(vcpu, EXITS, "hlt", data->done[HLT]);
	tally(vcpu, EXITS, "npf", data->done[MMIO]);
	if (!vcpu->rounds)
		tally(vcpu, EXITS, "npf", data->done[TOUCH] + 2); /* 2: the pages of code and data */
}

static void tally_intel(struct vcpu *vcpu, volatile struct guest_data *data)
{
	/* KVM learns at the first store that no memory is there. Later stores are misconfigurations that KVM made. */
	unsigned long first_store = !vcpu->rounds && data->done[MMIO];

	tally(vcpu, EXITS, "IO_INSTRUCTION", data->done[IO] + 1);
	tally(vcpu, EXITS, "CPUID", data->done[CPUID]);
	tally(vcpu, EXITS, "MSR_READ", data->done[MSR]);
	tally(vcpu, EXITS, "MSR_WRITE", data->wrmsr);
	tally(vcpu, EXITS, "HLT", data->done[HLT]);
	tally(vcpu, EXITS, "VMCALL", data->done[VMCALL]);
	tally(vcpu, EXITS, "EPT_MISCONFIG", data->done[MMIO] - first_store);
	if (!vcpu->rounds)
		tally(vcpu, EXITS, "EPT_VIOLATION", data->done[TOUCH] + 2 + first_store); /* 2: see tally_amd() */
}

void arch_end_round(struct vcpu *vcpu)
{
	volatile struct guest_data *data = guest_data(vcpu);

	for (int kind = 0; kind < KINDS; kind++)
		if (data->left[kind] || data->done[kind] < vcpu->want[kind])
			die("the guest did not finish its work");
	if (on_intel())
		tally_intel(vcpu, data);
	else
		tally_amd(vcpu, data);
	vcpu->rounds++;
	if (data->slept)
		vcpu->sleep_ns += data->slept * ns_per_tick();
}
