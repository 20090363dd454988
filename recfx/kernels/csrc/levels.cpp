// Which instruction-set levels this processor runs: those of plans, and those of searches.
#include <cstring>
#include <string>

#include "kernels.h"
#include "plan.h"
#include "retrieval.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace recfx {
namespace {

// A level, and whether this processor runs it.
template <class L>
struct Entry {
    const L* (*level)();
    bool runs;
};

#if defined(__x86_64__)
// The instructions that levels are compiled for, as X86_FLAGS in setup.py lists them.
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool runs_avx512() {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
bool runs_avx512_bf16() { return runs_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"); }
// The state of tiles is 8 KiB for each thread, which Linux gives to processes that ask for it, from version 5.16 on.
bool runs_amx() {
#if defined(__linux__) && defined(RECFX_AMX)
    constexpr unsigned BF16 = 1u << 22, TILE = 1u << 24, INT8 = 1u << 25, ALL = BF16 | TILE | INT8;  // EDX of leaf 7, which older headers do not name
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA
    unsigned eax, ebx, ecx, edx;
    return runs_avx512_bf16() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & ALL) == ALL &&
           syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return false;
#endif
}
bool runs_avx512_vpopcntdq() { return runs_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq"); }
#elif defined(__aarch64__)
bool runs_dotprod() {
#if defined(__linux__)
    constexpr unsigned long ASIMDDP = 1ul << 20;  // HWCAP_ASIMDDP, which older headers do not name
    return getauxval(AT_HWCAP) & ASIMDDP;
#elif defined(__APPLE__)
    return true;  // every 64-bit processor of Apple's computers
#else
    return false;
#endif
}
#endif

// Best first.
const Entry<Level> LEVELS[] = {
#if defined(__x86_64__)
#if defined(RECFX_AMX)
    {level_amx, runs_amx()},
#endif
    {level_avx512_bf16, runs_avx512_bf16()},
    {level_avx512, runs_avx512()},
    {level_avx2, runs_avx2()},
#elif defined(__aarch64__)
    {level_neon_dotprod, runs_dotprod()},
#endif
    {level_portable, true},
};

const Entry<ScanLevel> SEARCH_LEVELS[] = {
#if defined(__x86_64__)
    {scan_avx512_vpopcntdq, runs_avx512_vpopcntdq()},
    {scan_avx512, runs_avx512()},
    {scan_avx2, runs_avx2()},
#endif
    {scan_portable, true},
};

template <class L, size_t N>
const L* find(const Entry<L> (&entries)[N], const char* name) {
    for (const Entry<L>& entry : entries)
        if (entry.runs && std::strcmp(entry.level()->name, name) == 0) return entry.level();
    return nullptr;
}

// The names of those that run, separated by commas.
template <class L, size_t N>
std::string names_of(const Entry<L> (&entries)[N]) {
    std::string text;
    for (const Entry<L>& entry : entries)
        if (entry.runs) text += (text.empty() ? "" : ",") + std::string(entry.level()->name);
    return text;
}

}  // namespace

const Level* find_level(const char* name) { return find(LEVELS, name); }
const ScanLevel* find_scan_level(const char* name) { return find(SEARCH_LEVELS, name); }

}  // namespace recfx

extern "C" {

const char* recfx_levels() {
    static const std::string names = recfx::names_of(recfx::LEVELS);
    return names.c_str();
}

const char* recfx_search_levels() {
    static const std::string names = recfx::names_of(recfx::SEARCH_LEVELS);
    return names.c_str();
}

int64_t recfx_panel_columns(const char* level) {
    const recfx::Level* found = recfx::find_level(level);
    return found ? found->packing.columns : -1;
}

int64_t recfx_unit_depth(const char* level, int32_t format) {
    const recfx::Level* found = recfx::find_level(level);
    if (!found) return -1;
    switch (format) {
        case WEIGHT_F32: return found->packing.depth_f32;
        case WEIGHT_BF16: return found->packing.depth_bf16;
        case WEIGHT_I8: return found->packing.depth_i8;
        default: return -1;
    }
}

void recfx_pack(const char* level, int32_t format, const void* weight, int64_t n, int64_t k, uint32_t* packed) {
    if (const recfx::Level* found = recfx::find_level(level)) found->pack(format, weight, n, k, packed);
}
}
