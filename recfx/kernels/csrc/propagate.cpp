// Graph propagation: the layers of one call over a team of threads.
#include "kernels.h"
#include "plan.h"
#include "pool.h"

namespace recfx {
namespace {

constexpr int64_t ROW_COST = 2;  // the cost of writing a row, in gathered rows

struct Team {
    const Propagation& work;
    void (*propagate)(const Propagation&, int64_t, int64_t, int64_t);
    int64_t members;
    Barrier barrier;
};

// The row where the work before it reaches `part` of `parts`; rises with part. The work before row r is offsets[r] + ROW_COST * r.
int64_t border(const Propagation& p, int64_t part, int64_t parts) {
    const int64_t wanted = (p.offsets[p.rows] + ROW_COST * p.rows) / parts * part;
    if (part == parts) return p.rows;
    int64_t low = 0, high = p.rows;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (p.offsets[middle] + ROW_COST * middle < wanted) low = middle + 1;
        else high = middle;
    }
    return low;
}

void member(void* state, int64_t which) {
    auto& team = *static_cast<Team*>(state);
    const int64_t begin = border(team.work, which, team.members), end = border(team.work, which + 1, team.members);
    for (int64_t layer = 0; layer <= team.work.layers; ++layer) {
        if (layer && team.members > 1) team.barrier.wait();
        team.propagate(team.work, layer, begin, end);
    }
}

void alone(void* state, int64_t) {
    const auto& team = *static_cast<Team*>(state);
    Team single{team.work, team.propagate, 1, Barrier(1)};
    member(&single, 0);
}

RecfxPropagateResult check(const Propagation& p, int64_t neighbours) {
    if (p.offsets[0] != 0 || p.offsets[p.rows] != neighbours) return PROPAGATE_BAD_OFFSETS;
    bool falls = false;
    for (int64_t r = 0; r < p.rows; ++r) falls |= p.offsets[r + 1] < p.offsets[r];
    if (falls) return PROPAGATE_BAD_OFFSETS;
    uint32_t highest = 0;
    for (int64_t e = 0; e < neighbours; ++e) highest = uint32_t(p.neighbours[e]) > highest ? uint32_t(p.neighbours[e]) : highest;
    return neighbours && int64_t(highest) >= p.rows ? PROPAGATE_BAD_NEIGHBOUR : PROPAGATE_DONE;
}

}  // namespace
}  // namespace recfx

extern "C" {

int64_t recfx_propagate(const char* name, const float* x, float* out, void* scratch, const int64_t* offsets, const int32_t* neighbours,
                        int64_t neighbour_count, const float* scale, int64_t rows, int64_t columns, const float* weights, int64_t layers,
                        int32_t halved, int64_t threads) {
    const recfx::Level* level = recfx::find_level(name);
    if (!level) return PROPAGATE_NO_LEVEL;
    const recfx::Propagation work{x, out, scratch, offsets, neighbours, scale, rows, columns, weights, layers, halved != 0};
    if (const RecfxPropagateResult wrong = recfx::check(work, neighbour_count)) return wrong;
    recfx::Team team{work, level->propagate, threads < 1 ? 1 : threads, recfx::Barrier(threads < 1 ? 1 : threads)};
    recfx::run_team(team.members, recfx::member, recfx::alone, &team, recfx::LONG_PATIENCE_NS);
    return PROPAGATE_DONE;
}
}
