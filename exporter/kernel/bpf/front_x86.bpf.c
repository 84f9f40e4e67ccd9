// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The front for kvm:kvm_exit of x86 (arch/x86/kvm/trace.h). exporter/kernel/isa/x86_front.py
 * chooses a tracepoint and its macros, and says why.
 *
 * Raw tracepoint: REASON_ARG, VCPU_ARG, ISA_ARG and VCPU_ID_ARG are numbers of arguments.
 * Without REASON_ARG, the reason is read from KVM's structure of the vCPU, at the offset
 * VMX_EXIT_REASON, or SVM_VMCB and then SVM_EXIT_CODE. Without VCPU_ID_ARG, the vCPU's id is
 * read at the offset KVM_VCPU_ID.
 *
 * Classic tracepoint: *_OFFSET are offsets in its record. Before Linux 5.11 there is no
 * VCPU_ID_OFFSET.
 */

#ifdef FRONT_X86

#ifdef ISA_ARG
/* No exit has this code: KVM's memory could not be read. */
#define UNREAD_CODE	(~0ULL)

static __always_inline u64 code_of(struct bpf_raw_tracepoint_args *ctx, u32 isa)
{
#ifdef REASON_ARG
	return ctx->args[REASON_ARG];
#else
	u64 vcpu = ctx->args[VCPU_ARG];
	u32 code = 0;

#ifdef VMX_EXIT_REASON
	if (isa == SPACE_VMX &&
	    !bpf_probe_read_kernel(&code, sizeof(code), (void *)(vcpu + VMX_EXIT_REASON)))
		return code;
#endif
#ifdef SVM_VMCB
	u64 vmcb = 0;

	if (isa == SPACE_SVM &&
	    !bpf_probe_read_kernel(&vmcb, sizeof(vmcb), (void *)(vcpu + SVM_VMCB)) &&
	    !bpf_probe_read_kernel(&code, sizeof(code), (void *)(vmcb + SVM_EXIT_CODE)))
		return code;
#endif
	return UNREAD_CODE;
#endif /* REASON_ARG */
}

int kvm_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx);
	u32 isa = ctx->args[ISA_ARG];
	u64 code = code_of(ctx, isa);

#ifdef VCPU_ID_ARG
	return on_exit(isa, code, ctx->args[VCPU_ID_ARG], 0, now);
#elif defined(KVM_VCPU_ID)
	return on_exit(isa, code, NO_VCPU_ID, ctx->args[VCPU_ARG], now);
#else
	return on_exit(isa, code, NO_VCPU_ID, 0, now);
#endif
}
#endif /* ISA_ARG */

#ifdef ISA_OFFSET
/* Returns 1: perf events lose each event for which a program on the classic tracepoint returns 0. */
int kvm_exit_classic(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = NOW(ctx);
	u32 vcpu_id = NO_VCPU_ID;

#ifdef VCPU_ID_OFFSET
	vcpu_id = FIELD(u32, VCPU_ID_OFFSET);
#endif
	on_exit(FIELD(u32, ISA_OFFSET), FIELD(u32, EXIT_REASON_OFFSET), vcpu_id, 0, now);
	return 1;
}
#endif /* ISA_OFFSET */

#if defined(ISA_ARG) && defined(ISA_OFFSET)
/*
 * The check of the raw tracepoint: both programs below run at the same exits, and compare what
 * each of them reads. They run until some exits were compared (exporter/kernel/exit_check.py).
 * Which of them runs first at an exit depends on who else uses the tracepoint.
 */
struct exit_reading {
	u64 code;
	u32 isa;
	u32 vcpu_id;
	u32 raw;		/* 1: the raw tracepoint's arguments, 0: the record */
	u32 pad;
};

struct exit_check {
	u64 agreed;		/* exits of which both programs read the same */
	u64 differed;
	u64 raw_code;		/* the codes of the last exit that differed */
	u64 record_code;
};

BPF_TABLE("hash", u32, struct exit_reading, exit_readings, 1024);
BPF_F_TABLE("array", u32, struct exit_check, exit_check, 1, BPF_F_MMAPABLE);

static __always_inline bool same_exit(struct exit_reading *a, struct exit_reading *b)
{
	return a->code == b->code && a->isa == b->isa &&
	       (a->vcpu_id == b->vcpu_id || a->vcpu_id == NO_VCPU_ID || b->vcpu_id == NO_VCPU_ID);
}

/* The second reading of an exit is compared with the first one, which waits by thread. */
static __always_inline void compare_exit(u64 code, u32 isa, u32 vcpu_id, u32 raw)
{
	struct exit_reading now = { .code = code, .isa = isa, .vcpu_id = vcpu_id, .raw = raw };
	u32 tid = bpf_get_current_pid_tgid(), zero = 0;
	struct exit_reading *first = exit_readings.lookup(&tid);
	struct exit_check *check = exit_check.lookup(&zero);

	if (!check)
		return;
	if (!first || first->raw == raw) {
		exit_readings.update(&tid, &now);
		return;
	}
	if (same_exit(first, &now)) {
		__sync_fetch_and_add(&check->agreed, 1);
	} else {
		check->raw_code = raw ? code : first->code;
		check->record_code = raw ? first->code : code;
		__sync_fetch_and_add(&check->differed, 1);
	}
	exit_readings.delete(&tid);
}

int kvm_exit_check(struct bpf_raw_tracepoint_args *ctx)
{
	u32 isa = ctx->args[ISA_ARG];

	u32 vcpu_id = NO_VCPU_ID;

#ifdef VCPU_ARG
	vcpu_id = read_vcpu_id(ctx->args[VCPU_ARG]);
#endif
	compare_exit(code_of(ctx, isa), isa, vcpu_id, 1);
	return 0;
}

static __always_inline void compare_record(void *ctx)
{
	u32 vcpu_id = NO_VCPU_ID;

#ifdef VCPU_ID_OFFSET
	vcpu_id = FIELD(u32, VCPU_ID_OFFSET);
#endif
	compare_exit(FIELD(u32, EXIT_REASON_OFFSET), FIELD(u32, ISA_OFFSET), vcpu_id, 0);
}

/* Returns 1, as kvm_exit_classic does. */
int kvm_exit_record(void *ctx)
{
	compare_record(ctx);
	return 1;
}
#endif
#endif /* FRONT_X86 */
