/* SPDX-License-Identifier: MIT
 *
 * What AVX-512 adds to decoding (decode.c): whose instruction it is, and what its
 * opmask spares. Both are for insn_decode() alone.
 */
#ifndef BELFRY_ENGINE_DECODE_EVEX_H
#define BELFRY_ENGINE_DECODE_EVEX_H

#include "engine/decode.h"

#include <Zydis/Zydis.h>

/* By the part of AVX-512 it belongs to (a ZydisISASet): has the guest all that it needs? */
bool evex_allowed(const struct engine_vcpu *v, unsigned int set);
/*
 * Which elements of a memory operand an opmask may spare: SDM vol. 2, "EVEX-Encoded Instructions",
 * exception types; those without fault suppression always access all of it.
 */
void evex_take_mask(struct insn *in, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);

#endif
