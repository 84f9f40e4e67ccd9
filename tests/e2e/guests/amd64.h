/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of the exact guest on amd64 share. */
#ifndef AMD64_H
#define AMD64_H

#include "vm.h"

/*
 * "refused=N": at the start of the first round, N VM entries whose guest state the CPU refuses.
 * "crash=N": at the start of the first round, N triple faults.
 * "failed=N": at the end of the only round, N VM entries whose controls the CPU refuses. No round
 *   may follow, because KVM does not clear such controls.
 */
#define INTEL_KINDS "refused", "crash", "failed"

bool on_intel(void);
void intel_start(struct vcpu *vcpu, uint64_t undefined); /* address of an undefined instruction in CS */
void intel_end(struct vcpu *vcpu);

#endif
