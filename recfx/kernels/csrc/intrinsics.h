// The intrinsics of the processor's family, and the instructions that the flags of a level allow.
//
// A source of a level defines RECFX_LANES, the 32-bit lanes of its vectors, before it includes anything.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512BF16__) && RECFX_LANES == 16
#define RECFX_HAS_BF16 1
#endif
#if defined(__AVX512VNNI__) && RECFX_LANES == 16
#define RECFX_HAS_VNNI 1
#endif
#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && RECFX_LANES == 16
#define RECFX_HAS_AMX 1
#else
#define RECFX_HAS_AMX 0
#endif
#if defined(__AVX512BW__) && RECFX_LANES == 16
#define RECFX_HAS_MADD512 1
#endif
#if defined(__AVX2__) && RECFX_LANES == 8
#define RECFX_HAS_MADD256 1
#endif
#if defined(__ARM_FEATURE_DOTPROD) && RECFX_LANES == 4
#define RECFX_HAS_SDOT 1
#endif
