// The plain C functions of the library.
#pragma once
#include "abi.h"

#define RECFX_API __attribute__((visibility("default")))

extern "C" {

// The levels this processor can run, best first, separated by commas.
RECFX_API const char* recfx_levels();

// Columns of a panel, and inputs in a unit of a RecfxWeightFormat, at a level; -1 for a level that this processor does not run.
RECFX_API int64_t recfx_panel_columns(const char* level);
RECFX_API int64_t recfx_unit_depth(const char* level, int32_t format);
RECFX_API void recfx_pack(const char* level, int32_t format, const void* weight, int64_t n, int64_t k, uint32_t* packed);

// Sizes of the structs, so that the caller can check that both sides agree.
RECFX_API int64_t recfx_struct_bytes(int32_t which);

// The digest of the table of codes, for the same check.
RECFX_API int64_t recfx_codes();

// Sets the OpenMP runtime whose parallel regions run all calls. Without it, and after a call with a null pointer, every call runs on the
// calling thread. The arguments are GOMP_parallel, omp_get_thread_num, omp_get_num_threads and omp_get_max_threads.
RECFX_API void recfx_use_openmp(void* parallel, void* thread, void* threads, void* most);

// A plan over copies of the slots and steps. `block`: how many batch rows go through all steps at once. nullptr: no such level, or no memory.
RECFX_API void* recfx_plan_new(const char* level, const RecfxSlot* slots, int64_t slot_count, const RecfxStep* steps, int64_t step_count, int64_t block);
RECFX_API void recfx_plan_free(void* plan);

// Runs a plan for `batch` rows on up to `threads` threads. pointers: one per argument; counts: their elements. Returns 0, or the error's code.
RECFX_API int64_t recfx_run(void* plan, int64_t batch, int64_t threads, const int64_t* pointers, const int64_t* counts);

// The error of the last run that failed on this thread.
RECFX_API void recfx_last_error(RecfxError* error);

// A graph propagation: out = sum_k weights[k] (S A S)^k x for k = 0..layers, S = diag(scale), A of ones in compressed sparse rows.
// `scratch`: rows * columns floats, or with `halved` twice as many 16-bit numbers.
// Returns a RecfxPropagateResult: BAD_OFFSETS where the offsets do not describe rows within the neighbours, BAD_NEIGHBOUR where one is not a row.
RECFX_API int64_t recfx_propagate(const char* level, const float* x, float* out, void* scratch, const int64_t* offsets, const int32_t* neighbours,
                                  int64_t neighbour_count, const float* scale, int64_t rows, int64_t columns, const float* weights, int64_t layers,
                                  int32_t halved, int64_t threads);

// The losses of a batch and the gradient of their mean. Returns a RecfxBprResult: BAD_USER, BAD_POSITIVE or BAD_NEGATIVE where an id is not a row.
RECFX_API int64_t recfx_bpr(const char* level, const RecfxBpr* work, int64_t threads);
}
