// Runs plans: binds slots to memory, takes blocks of batch rows through all steps, on one thread or a team.
#include "plan.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <new>
#include <utility>
#include <vector>

#include "costs.h"
#include "kernels.h"
#include "pool.h"
#include "turns.h"

namespace recfx {

Scratch::~Scratch() { std::free(memory_); }

void* Scratch::at_least(size_t bytes) {
    if (bytes > size_) {
        std::free(memory_);
        size_ = 0;
        const size_t rounded = (bytes + 4095) / 4096 * 4096;
        memory_ = std::aligned_alloc(64, rounded);
        if (memory_) size_ = rounded;
    }
    return memory_;
}

void Errors::raise(const RecfxError& error) {
    int64_t none = 0;
    if (raised.compare_exchange_strong(none, -1)) {
        first = error;
        raised.store(error.code, std::memory_order_release);
    }
}

namespace {

struct Thread {
    Scratch temps, scratch;
};
thread_local Thread mine;
thread_local RecfxError last_error;

constexpr double TEAM_PAYS_NS = 50e3;  // a team that must be woken or waited for does not finish shorter work sooner
constexpr int64_t EARLY_ROWS = 8;      // up to this batch, the prefetched rows of lookups stay in the caches while products before them run
constexpr int64_t FEW_ROWS = 24;  // up to this many rows a team shares every step; above, it shares the rows

}  // namespace

struct Group {
    bool once;
    int64_t bytes;  // a batch row
    std::vector<size_t> slots;
};

struct Plan {
    const Level* level;
    std::vector<RecfxSlot> slots;
    std::vector<RecfxStep> steps;
    int64_t block;
    int64_t inner = 1;                // rows, or keys, of the widest product per batch row
    std::vector<Group> groups;
    bool has_once = false;
    std::vector<size_t> early;        // lookups after products: their rows are prefetched during the products
    int64_t arguments = 0;            // the caller's pointers
    double weight_ns = 0, row_ns = 0;  // rough times of reading all weights, and of a batch row
    mutable std::atomic<uint32_t> calls{0};

    double time(int64_t rows) const { return weight_ns + row_ns * double(rows); }

    // Nanoseconds to wait for a team: a quarter of the work, and at most the time it takes to wake a thread.
    int64_t patience(int64_t rows) const { return int64_t(std::min(std::max(time(rows) / 4, 5e3), 1e5)); }

    int64_t temps(int64_t rows, std::vector<int64_t>* offsets, bool once) const;
};

// Computes the offset of each temporary for blocks of `rows` rows; returns the total in bytes. Slots of the other kind (once or not) keep
// their offset. Temporaries of one group are never alive together and share their memory.
int64_t Plan::temps(int64_t rows, std::vector<int64_t>* offsets, bool once) const {
    int64_t total = 0;
    for (const Group& group : groups) {
        if (group.once != once) continue;
        if (offsets)
            for (const size_t slot : group.slots) (*offsets)[slot] = total;
        total += (group.bytes * (once ? 1 : rows) + 128) / 64 * 64;
    }
    return total;
}

namespace {

struct Call {
    const Plan& plan;
    int64_t batch, threads, block;
    const int64_t *pointers, *counts;
    Errors errors;
    std::atomic<int64_t> next{0};
    Barrier barrier;
    char *shared = nullptr, *shared_rows = nullptr;  // temporaries of the once steps; of all rows, when a team shares the steps
    bool share_steps, backward;

    Call(const Plan& p, int64_t b, int64_t t, const int64_t* ptrs, const int64_t* cnts)
        : plan(p), batch(b), threads(t), block(p.block), pointers(ptrs), counts(cnts), barrier(t),
          share_steps(b * p.inner <= FEW_ROWS || b < t), backward(p.calls.fetch_add(1, std::memory_order_relaxed) % 2 != 0) {}
};

// Slots bound to memory: inputs and outputs to the caller's, temporaries to `once_temps` and `row_temps` (whose first row is `first_row`).
void place(const Call& call, std::vector<Bound>& bound, char* once_temps, char* row_temps, int64_t rows, int64_t first_row) {
    const Plan& plan = call.plan;
    std::vector<int64_t> offsets(plan.slots.size(), 0);
    plan.temps(rows, &offsets, true);
    plan.temps(rows, &offsets, false);
    bound.resize(plan.slots.size());
    for (size_t i = 0; i < plan.slots.size(); ++i) {
        const RecfxSlot& slot = plan.slots[i];
        Bound& b = bound[i];
        b = {nullptr, 0, slot.row_stride, 0, slot.dtype};
        if (slot.kind == RECFX_TEMP) {
            b.base = (slot.once ? once_temps : row_temps) + offsets[i];
            b.first_row = slot.once ? 0 : first_row;
        } else if (slot.kind == RECFX_CONST) {
            b.base = static_cast<char*>(slot.data);
        } else {
            b.base = reinterpret_cast<char*>(call.pointers[slot.argument]);
            b.count = call.counts ? call.counts[slot.argument] : 0;
        }
    }
}

void run_steps(Call& call, const std::vector<Bound>& bound, bool once, Range range, bool meet) {
    Context context{bound.data(), &mine.scratch, &call.errors, 0, call.backward};
    if (!once && range.end - range.begin <= EARLY_ROWS)
        for (const size_t i : call.plan.early) call.plan.level->announce(call.plan.steps[i], context, range);
    for (size_t i = 0; i < call.plan.steps.size(); ++i) {
        const RecfxStep& step = call.plan.steps[i];
        if (bool(step.once) != once) continue;
        context.step = int64_t(i);
        call.plan.level->steps.of_kind[step.kind](step, context, range);
        if (meet) call.barrier.wait();
    }
}

void member(void* state, int64_t m) {
    Call& call = *static_cast<Call*>(state);
    std::vector<Bound> bound;
    if (call.plan.has_once || call.share_steps) {
        place(call, bound, call.shared, call.shared_rows, call.batch, 0);
        if (call.plan.has_once) run_steps(call, bound, true, {0, 1, m, call.threads, call.batch}, call.threads > 1);
    }
    if (call.share_steps) return run_steps(call, bound, false, {0, call.batch, m, call.threads, call.batch}, call.threads > 1);
    const int64_t blocks = (call.batch + call.block - 1) / call.block;
    const int64_t row_bytes = call.plan.temps(call.block, nullptr, false) + 64;
    char* temps = static_cast<char*>(mine.temps.at_least(size_t(row_bytes)));
    if (!temps) return call.errors.no_memory(0, row_bytes);
    for (int64_t b; (b = call.next.fetch_add(1)) < blocks;) {
        int64_t begin, end;
        split(call.batch, b, blocks, begin, end);
        place(call, bound, call.shared, temps, call.block, begin);
        run_steps(call, bound, false, {begin, end, 0, 1, call.batch}, false);
        if (call.errors.raised.load(std::memory_order_acquire)) return;
    }
}

// The whole call on the calling thread.
void alone(void* state, int64_t) {
    Call& call = *static_cast<Call*>(state);
    if (call.threads == 1) return member(state, 0);
    Call single(call.plan, call.batch, 1, call.pointers, call.counts);
    single.shared = call.shared;
    single.shared_rows = call.shared_rows;
    single.share_steps = call.share_steps;
    single.block = call.block;
    member(&single, 0);
    if (single.errors.raised.load()) call.errors.raise(single.errors.first);
}

// Lookups after products whose ids are inputs. Ids that the plan computes do not exist before their step.
void find_early(Plan& plan) {
    auto given = [&](int32_t slot) { return slot < 0 || plan.slots[size_t(slot)].kind == RECFX_INPUT; };
    bool behind = false;
    for (size_t i = 0; i < plan.steps.size(); ++i) {
        const RecfxStep& step = plan.steps[i];
        behind |= (step.kind == RECFX_GEMM || step.kind == RECFX_CIN) && !step.once;
        if (step.kind != RECFX_LOOKUP || step.once || !behind) continue;
        const auto* features = static_cast<const RecfxFeature*>(step.pointers[LookupPointer::features]);
        bool all = true;
        for (int64_t f = 0; f < step.ints[LookupInt::features]; ++f) all &= given(features[f].ids) && given(features[f].offsets);
        if (all) plan.early.push_back(i);
    }
}

// The position of the first argument that is a null pointer, or -1. A jagged input without elements may be null.
int64_t without_memory(const Plan& plan, const int64_t* pointers, const int64_t* counts) {
    for (int64_t i = 0; i < plan.arguments; ++i)
        if (!pointers[i] && !(counts && !counts[i])) return i;
    return -1;
}

int64_t execute(const Plan& plan, int64_t batch, int64_t threads, const int64_t* pointers, const int64_t* counts) {
    if (batch < 1) return 0;
    if (const int64_t missing = without_memory(plan, pointers, counts); missing >= 0) {
        last_error = {RECFX_NULL_ARGUMENT, 0, 0, 0, {}, 0};
        last_error.argument = missing;
        return RECFX_NULL_ARGUMENT;
    }
    if (plan.time(batch) < TEAM_PAYS_NS) threads = 1;
    Call call(plan, batch, threads, pointers, counts);
    if (threads > 1 && !call.share_steps) {
        const int64_t share = (batch + threads - 1) / threads;
        call.block = call.block < share ? call.block : share;
    }
    const int64_t once = plan.temps(batch, nullptr, true), rows = call.share_steps ? plan.temps(batch, nullptr, false) : 0;
    // Separate from the `temps` of the calling thread, which its part of the blocks uses.
    thread_local Scratch shared;
    if (once + rows) {
        call.shared = static_cast<char*>(shared.at_least(size_t(once + rows) + 128));
        if (!call.shared) call.errors.no_memory(0, once + rows);
        call.shared_rows = call.shared + (once + 63) / 64 * 64;
    }
    if (!call.errors.raised.load()) {
        const bool meets = plan.has_once || call.share_steps;
        run_team(threads, member, alone, &call, meets ? plan.patience(batch) : 0);
    }
    const int64_t code = call.errors.raised.load();
    if (code) last_error = call.errors.first;
    return code;
}

}  // namespace
}  // namespace recfx

using recfx::Plan;

extern "C" {

int64_t recfx_struct_bytes(int32_t which) {
    const size_t sizes[] = {sizeof(RecfxSlot), sizeof(RecfxView), sizeof(RecfxStep), sizeof(RecfxFeature), sizeof(RecfxError), sizeof(RecfxBpr)};
    return which >= 0 && which < 6 ? int64_t(sizes[which]) : -1;
}

int64_t recfx_codes() { return RECFX_CODES; }

void* recfx_plan_new(const char* name, const RecfxSlot* slots, int64_t slot_count, const RecfxStep* steps, int64_t step_count, int64_t block) {
    const recfx::Level* level = recfx::find_level(name);
    if (!level) return nullptr;
    try {
        auto* plan = new Plan{level, {slots, slots + slot_count}, {steps, steps + step_count}, block < 1 ? 1 : block, 1, {}, false, {}};
        std::map<std::pair<int64_t, bool>, recfx::Group> groups;
        for (size_t i = 0; i < plan->slots.size(); ++i) {
            const RecfxSlot& slot = plan->slots[i];
            const bool argument = slot.kind == RECFX_INPUT || slot.kind == RECFX_OUTPUT;
            if (argument && slot.argument >= plan->arguments) plan->arguments = int64_t(slot.argument) + 1;
            if (slot.kind != RECFX_TEMP) continue;
            recfx::Group& group = groups[{slot.group, bool(slot.once)}];
            const int64_t bytes = int64_t(slot.width) * recfx::size_of(slot.dtype);
            group.once = slot.once;
            group.bytes = bytes > group.bytes ? bytes : group.bytes;
            group.slots.push_back(i);
        }
        for (auto& group : groups) plan->groups.push_back(group.second);
        recfx::find_early(*plan);
        for (const RecfxStep& step : plan->steps) {
            plan->has_once |= step.once != 0;
            const recfx::Cost cost = recfx::cost_of(step);
            plan->weight_ns += cost.weights_ns + (step.once ? cost.row_ns : 0);
            plan->row_ns += step.once ? 0 : cost.row_ns;
            const int64_t rows = recfx::product_rows(step);
            if (rows > plan->inner && !step.once) plan->inner = rows;
        }
        return plan;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void recfx_plan_free(void* plan) { delete static_cast<Plan*>(plan); }

int64_t recfx_run(void* plan, int64_t batch, int64_t threads, const int64_t* pointers, const int64_t* counts) {
    const int64_t code = recfx::execute(*static_cast<Plan*>(plan), batch, threads, pointers, counts);
    recfx::give_way();
    return code;
}

void recfx_last_error(RecfxError* error) { *error = recfx::last_error; }
}
