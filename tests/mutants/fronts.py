"""Changes of the fronts, and of the version by which the service decides whether a program may go on."""

from __future__ import annotations

from tests.mutants.change import Change

_COMMON = "exporter/kernel/bpf/front_common.bpf.c"
_ARM64 = "exporter/kernel/bpf/front_arm64.bpf.c"
_OPENEULER = "exporter/kernel/bpf/front_arm64_openeuler.bpf.c"
_X86 = "exporter/kernel/bpf/front_x86.bpf.c"
_FRONT = "exporter/kernel/bpf/front.bpf.h"
_X86_FRONT = "exporter/kernel/isa/x86_front.py"
_HANDOVER = "exporter/service/handover.py"
_RETURNS = ("tests/kernel/test_userspace.py::test_every_return_is_counted_and_the_first_one_gets_the_interval",)
_DECODED = ("tests/kernel/test_counts.py::test_arm64_return_codes_are_decoded",)
_EXEC = ("tests/kernel/test_lifetime.py::test_only_an_exec_that_changes_the_tid_ends_a_slot",)
_UNREAD = ("tests/kernel/test_kvm_exit.py::test_an_exit_that_cannot_be_read_is_counted",)
_OTHER = ("tests/kernel/test_kvm_exit.py::test_the_structure_of_the_other_vendor_is_not_read",)
_RAW = ("tests/kernel/test_kvm_exit.py::test_each_raw_form_counts_the_reason_and_finds_the_vcpu",)
_CLASSIC = ("tests/kernel/test_kvm_exit.py::test_the_classic_form_counts_the_fields_of_the_record",)
_CLASSIC_RETURN = ("tests/kernel/test_kvm_exit.py::test_the_classic_form_is_a_filter_that_passes_everything",)
_X86_UNIT = ("tests/unit/kernel/isa/test_x86_front.py",)
_VERSION = ("tests/unit/service/test_handover.py",)
_EULER_CLASSES = (
    "tests/kernel/test_openeuler.py::test_an_exit_without_a_class_is_counted_at_the_next_event",
    "tests/kernel/test_openeuler.py::test_counts_every_exit_of_many_threads",
)

CHANGES = (
    Change("a return without an error has an errno", _COMMON, "if (errno < 0) {", "if (errno <= 0) {", _RETURNS),
    Change("an errno is its negative", _COMMON, "code = -errno;", "code = errno;", _RETURNS),
    Change("an errno is a reason", _COMMON, "space = SPACE_USERSPACE_ERRNO;", "space = SPACE_USERSPACE;", _RETURNS),
    Change(
        "an exec ends the thread that it does not rename",
        _COMMON,
        "	if (old == (u32)bpf_get_current_pid_tgid())\n		return 0;\n",
        "",
        _EXEC,
    ),
    Change(
        "an exec ends the new tid",
        _COMMON,
        "return on_thread_end(old, NOW(ctx));",
        "return on_thread_end(bpf_get_current_pid_tgid(), NOW(ctx));",
        _EXEC,
    ),
    Change("arm64 keeps the bit of the pending SError", _ARM64, "0x7fffffffU", "0xffffffffU", _DECODED),
    Change(
        "arm64 takes an IL for a trap",
        _ARM64,
        "#define ARM_EXCEPTION_TRAP	2",
        "#define ARM_EXCEPTION_TRAP	3",
        _DECODED,
    ),
    Change("arm64 counts traps as return codes", _ARM64, "space = SPACE_ARM64_TRAP;", "", _DECODED),
    Change("openEuler keeps the bit of the pending SError", _OPENEULER, "0x7fffffffU", "0xffffffffU", _EULER_CLASSES),
    Change(
        "openEuler reads the vcpu_id as the class",
        _OPENEULER,
        "u32 esr_ec = ctx->args[1];",
        "u32 esr_ec = ctx->args[0];",
        _EULER_CLASSES,
    ),
    Change(
        "openEuler counts classes as return codes",
        _OPENEULER,
        "on_reason(SPACE_ARM64_TRAP,",
        "on_reason(SPACE_ARM64_RET,",
        _EULER_CLASSES,
    ),
    Change(
        "openEuler waits for the class of an interrupt",
        _OPENEULER,
        "	if (code == ARM_EXCEPTION_TRAP)\n		return on_exit_without_reason",
        "	if (code <= ARM_EXCEPTION_TRAP)\n		return on_exit_without_reason",
        _EULER_CLASSES,
    ),
    Change(
        "a recorded exit of openEuler has no class",
        _OPENEULER,
        "	if (ctx->args[3]) {",
        "	if (ctx->args[5]) {",
        ("tests/kernel/test_openeuler.py::test_a_recorded_exit_has_its_class",),
    ),
    Change(
        "x86 ignores the instruction set",
        _X86,
        "u32 isa = ctx->args[ISA_ARG];\n	u64 code",
        "u32 isa = SPACE_VMX;\n	u64 code",
        _RAW,
    ),
    Change("x86 reads the exit_code of SVM as VMX", _X86, "	if (isa == SPACE_VMX &&\n", "	if (\n", _OTHER),
    Change("x86 reads the exit_reason of VMX as SVM", _X86, "	if (isa == SPACE_SVM &&\n", "	if (\n", _OTHER),
    Change("x86 counts an unread exit as code 0", _X86, "	return UNREAD_CODE;", "	return 0;", _UNREAD),
    Change(
        "x86 reads the vcpu_id beside its place",
        _FRONT,
        "(vcpu + KVM_VCPU_ID)",
        "(vcpu + KVM_VCPU_ID + 4)",
        _RAW,
    ),
    Change(
        "x86 takes an unread vcpu_id for 0",
        _FRONT,
        "KVM_VCPU_ID)))\n		return NO_VCPU_ID;",
        "KVM_VCPU_ID)))\n		return 0;",
        _UNREAD,
    ),
    Change(
        "x86 takes a missing vcpu_id for 0",
        _FRONT,
        "	u32 id = NO_VCPU_ID;",
        "	u32 id = 0;",
        ("tests/kernel/test_kvm_exit.py::test_without_btf_there_is_no_vcpu_id",),
    ),
    Change("x86 hides events from perf", _X86, "0, now);\n	return 1;", "0, now);\n	return 0;", _CLASSIC_RETURN),
    Change(
        "x86 reads the classic reason as the instruction set",
        _X86,
        "on_exit(FIELD(u32, ISA_OFFSET)",
        "on_exit(FIELD(u32, EXIT_REASON_OFFSET)",
        _CLASSIC,
    ),
    Change(
        "x86 reads one byte of the classic reason",
        _X86,
        "FIELD(u32, EXIT_REASON_OFFSET), vcpu_id, 0",
        "FIELD(u8, EXIT_REASON_OFFSET), vcpu_id, 0",
        _CLASSIC,
    ),
    Change(
        "x86 reads no classic vcpu_id",
        _X86,
        "	vcpu_id = FIELD(u32, VCPU_ID_OFFSET);\n#endif\n	on_exit",
        "#endif\n	on_exit",
        _CLASSIC,
    ),
    Change(
        "x86 reads the arguments of 5.15 on 5.16",
        _X86_FRONT,
        "_REASON_REMOVED = (5, 16, 0)",
        "_REASON_REMOVED = (5, 16, 1)",
        _X86_UNIT,
    ),
    Change(
        "x86 reads the arguments of 5.16 on 5.15",
        _X86_FRONT,
        "_REASON_REMOVED = (5, 16, 0)",
        "_REASON_REMOVED = (5, 15, 999)",
        _X86_UNIT,
    ),
    Change(
        "x86 guesses the arguments of an unknown version",
        _X86_FRONT,
        "if version is None or version >=",
        "if version and version >=",
        _X86_UNIT,
    ),
    Change(
        "x86 counts offsets from the structure of the vendor",
        _X86_FRONT,
        ' - btf.member(structure, "vcpu").offset',
        "",
        _X86_UNIT,
    ),
    Change(
        "x86 trusts any place of SVM's exit_code",
        _X86_FRONT,
        "exit_code.offset != _EXIT_CODE_OFFSET or ",
        "",
        _X86_UNIT,
    ),
    Change(
        "a new program goes on with the old counts",
        _HANDOVER,
        '"".join(read_sources("counting")).encode()',
        'b""',
        _VERSION,
    ),
    Change(
        "a front with other offsets goes on with the old counts",
        _HANDOVER,
        "for path in OFFSET_SOURCES:",
        "for path in ():",
        _VERSION,
    ),
    Change("other macros go on with the old counts", _HANDOVER, ", sorted(DEFINES.items())", "", _VERSION),
    Change("other maps go on with the old counts", _HANDOVER, 'MAPS["counting"], TRACEPOINTS', "TRACEPOINTS", _VERSION),
    Change(
        "other tracepoints go on with the old counts",
        _HANDOVER,
        'MAPS["counting"], TRACEPOINTS',
        'MAPS["counting"]',
        _VERSION,
    ),
    Change(
        "another format of the state goes on with the old counts", _HANDOVER, "repr((_VERSION, ", "repr((", _VERSION
    ),
    Change(
        "another build of kvm_amd goes on with the old counts",
        _HANDOVER,
        '("kvm", "kvm_intel", "kvm_amd")',
        '("kvm", "kvm_intel")',
        _VERSION,
    ),
)
