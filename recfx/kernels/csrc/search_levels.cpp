// Which instruction-set levels of searches run here.
#include <cstring>
#include <string>

#include "retrieval.h"

namespace recfx {
namespace {

struct Entry {
    const ScanLevel* (*level)();
    bool runs;
};

// Best first.
const Entry* entries(int& count) {
#if defined(__x86_64__)
    static const bool narrow = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    static const bool wide = narrow && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
    static const Entry all[] = {
        {scan_avx512_vpopcntdq, wide && __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni")},
        {scan_avx512, wide},
        {scan_avx2, narrow},
        {scan_portable, true},
    };
    count = 4;
#else
    static const Entry all[] = {{scan_portable, true}};
    count = 1;
#endif
    return all;
}

}  // namespace

const ScanLevel* find_scan_level(const char* name) {
    int count;
    const Entry* all = entries(count);
    for (int i = 0; i < count; ++i)
        if (all[i].runs && std::strcmp(all[i].level()->name, name) == 0) return all[i].level();
    return nullptr;
}

}  // namespace recfx

extern "C" const char* recfx_search_levels() {
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
