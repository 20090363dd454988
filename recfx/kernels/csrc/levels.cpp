#include "levels.h"

#include <cstring>
#include <string>

#include "plan.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace recfx {
namespace {

struct Entry {
    const Level* (*level)();
    bool runs;
};

#if defined(__aarch64__)
bool multiplies_bytes() {
#if defined(__linux__)
    constexpr unsigned long ASIMDDP = 1ul << 20;  // HWCAP_ASIMDDP, which older headers do not name
    return getauxval(AT_HWCAP) & ASIMDDP;
#elif defined(__APPLE__)
    return true;  // every one of Apple's 64-bit computers
#else
    return false;
#endif
}
#endif

// Best first.
const Entry* entries(int& count) {
#if defined(__x86_64__)
    static const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
    static const bool narrow = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    static const Entry all[] = {
        {level_avx512_bf16, wide && narrow && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16")},
        {level_avx512, wide && narrow},
        {level_avx2, narrow},
        {level_portable, true},
    };
    count = 4;
#elif defined(__aarch64__)
    static const Entry all[] = {{level_neon_dotprod, multiplies_bytes()}, {level_portable, true}};
    count = 2;
#else
    static const Entry all[] = {{level_portable, true}};
    count = 1;
#endif
    return all;
}

}  // namespace

const Level* find_level(const char* name) {
    int count;
    const Entry* all = entries(count);
    for (int i = 0; i < count; ++i)
        if (all[i].runs && std::strcmp(all[i].level()->name, name) == 0) return all[i].level();
    return nullptr;
}

}  // namespace recfx

extern "C" {

const char* recfx_levels() {
    static const std::string names = [] {
        int count;
        const recfx::Entry* all = recfx::entries(count);
        std::string text;
        for (int i = 0; i < count; ++i)
            if (all[i].runs) text += (text.empty() ? "" : ",") + std::string(all[i].level()->name);
        return text;
    }();
    return names.c_str();
}

int64_t recfx_panel_columns(const char* level) {
    const recfx::Level* found = recfx::find_level(level);
    return found ? found->packing.columns : -1;
}

int64_t recfx_unit_depth(const char* level, int32_t format) {
    const recfx::Level* found = recfx::find_level(level);
    if (!found || format < 0 || format > 2) return -1;
    return format == 0 ? found->packing.depth_f32 : format == 1 ? found->packing.depth_bf16 : found->packing.depth_i8;
}

void recfx_pack(const char* level, int32_t format, const void* weight, int64_t n, int64_t k, uint32_t* packed) {
    if (const recfx::Level* found = recfx::find_level(level)) found->pack(format, weight, n, k, packed);
}
}
