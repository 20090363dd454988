// Pairwise ranking losses over a team of threads: threads share the samples for the loss, and the rows of the tables for the gradient.
#include <algorithm>

#include "kernels.h"
#include "plan.h"
#include "pool.h"

namespace recfx {
namespace {

struct Team {
    const Bpr& work;
    const Level* level;
    int64_t members;
    Barrier barrier;
};

void member(void* state, int64_t which) {
    auto& team = *static_cast<Team*>(state);
    const Bpr& p = team.work;
    int64_t begin, end;
    split(p.batch, which, team.members, begin, end);
    team.level->bpr_slopes(p, begin, end);
    if (team.members > 1) team.barrier.wait();
    // Every thread reads all samples and adds to its own rows: no two threads write the same row, and every sum has the order of the samples.
    split(p.user_count, which, team.members, begin, end);
    std::fill_n(p.user_gradient + begin * p.columns, (end - begin) * p.columns, 0.0f);
    team.level->bpr_user_rows(p, begin, end);
    split(p.item_count, which, team.members, begin, end);
    std::fill_n(p.item_gradient + begin * p.columns, (end - begin) * p.columns, 0.0f);
    team.level->bpr_item_rows(p, begin, end);
}

void alone(void* state, int64_t) {
    const auto& team = *static_cast<Team*>(state);
    Team single{team.work, team.level, 1, Barrier(1)};
    member(&single, 0);
}

bool within(const int64_t* ids, int64_t count, int64_t limit) {
    uint64_t highest = 0;
    for (int64_t i = 0; i < count; ++i) highest = uint64_t(ids[i]) > highest ? uint64_t(ids[i]) : highest;
    return count == 0 || highest < uint64_t(limit);
}

}  // namespace
}  // namespace recfx

extern "C" {

int64_t recfx_bpr(const char* name, const RecfxBpr* work, int64_t threads) {
    const recfx::Level* level = recfx::find_level(name);
    if (!level) return BPR_NO_LEVEL;
    if (!recfx::within(work->users, work->batch, work->user_count)) return BPR_BAD_USER;
    if (!recfx::within(work->positives, work->batch, work->item_count)) return BPR_BAD_POSITIVE;
    if (!recfx::within(work->negatives, work->batch * work->negative_count, work->item_count)) return BPR_BAD_NEGATIVE;
    const recfx::Bpr bpr{*work};
    recfx::Team team{bpr, level, threads < 1 ? 1 : threads, recfx::Barrier(threads < 1 ? 1 : threads)};
    recfx::run_team(team.members, recfx::member, recfx::alone, &team, recfx::LONG_PATIENCE_NS);
    return BPR_DONE;
}
}
