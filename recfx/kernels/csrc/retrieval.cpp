// Searches: their level, their division among threads, and their answers. All (value, id) pairs differ, so the best k of a set of them do not
// depend on how the set is divided: answers do not depend on the number of threads or on the groups of queries.
#include "retrieval.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <vector>

#include "pool.h"

namespace recfx {

void shorten(Best& best, Limit& limit, bool real) {
    if (best.count <= best.k) return;
    std::nth_element(best.entries, best.entries + best.k - 1, best.entries + best.count);
    best.count = best.k;
    const uint32_t key = uint32_t(best.entries[best.k - 1] >> 32);
    if (real) limit.real = real_of(key);
    else limit.whole = whole_of(key);
}

namespace {

bool left_out(const RecfxSearch& search, int64_t query, int64_t id) {
    if (search.dead && search.dead[id / 64] >> (id % 64) & 1) return true;
    if (!search.exclude_from) return false;
    return std::binary_search(search.exclude + search.exclude_from[query], search.exclude + search.exclude_from[query + 1], id);
}

template <class Value>
void enter_all(const RecfxSearch& search, Best& best, Limit& limit, int64_t first, uint32_t mask, const Value* values, bool real) {
    for (; mask; mask &= mask - 1) {
        const int64_t lane = __builtin_ctz(mask);
        if (left_out(search, best.query, first + lane)) continue;
        if (best.count == best.capacity) shorten(best, limit, real);
        best.entries[best.count++] = uint64_t(key_of(values[lane])) << 32 | uint64_t(first + lane);
    }
}

constexpr int64_t GROUP_BYTES = 16 << 10;   // units of the queries that one stream of items passes: half a first-level cache
constexpr int64_t LIST_BYTES = 64 << 20;    // lists of all threads
constexpr int64_t SAMPLED = 32;             // the sample for long lists holds one item in this number
constexpr int64_t SAMPLE_RUN = 32;          // adjacent blocks in the sample
constexpr int64_t LEAST_STEPS = 64 << 10;   // words of items times queries for which another thread is worth waking

void run(int64_t members, Task task, void* state) { run_team(members, task, nullptr, state, 0); }

// Writes the ids of the k best of a list in any order, and -1 where there were fewer.
void list_ids(uint64_t* list, int64_t count, int64_t k, int64_t* ids) {
    const int64_t found = std::min(k, count);
    std::nth_element(list, list + found, list + count);
    for (int64_t i = 0; i < k; ++i) ids[i] = i >= found ? -1 : int64_t(uint32_t(list[i]));
}

// Writes the k best of a list, and -inf and -1 where there were fewer.
template <class Value>
void answer(uint64_t* list, int64_t count, int64_t k, Value value, float* scores, int64_t* ids) {
    const int64_t found = std::min(k, count);
    std::nth_element(list, list + found, list + count);
    std::sort(list, list + found);
    for (int64_t i = 0; i < k; ++i) {
        const uint32_t key = uint32_t(list[i < found ? i : 0] >> 32);
        scores[i] = i >= found ? -INFINITY : value(key);
        ids[i] = i >= found ? -1 : int64_t(uint32_t(list[i]));
    }
}

// A group of queries: every member compares its part of the items with all of them.
struct Call {
    const RecfxSearch& search;
    const ScanLevel& level;
    int64_t members, capacity;
    int64_t first = 0, count = 0;
    std::vector<uint32_t> units;
    std::vector<uint64_t> entries;
    std::vector<Best> best;
    std::vector<Limit> limits, guesses;
    std::vector<bool> guessed;

    // Guesses from a sample the value that an item must exceed. Without a guess, a long list fills with the first items, and is shortened many
    // times before its last entry is a good one. The guess is low, so that a list rarely ends up with fewer than k items; `complete`
    // returns false then. Small tables get no guess, because their sample has too few items.
    void guess() {
        const int64_t blocks = (search.items + BLOCK - 1) / BLOCK, runs = blocks / (SAMPLED * SAMPLE_RUN);
        const auto k = std::min(search.k, search.items);
        const double expected = double(k) * double(runs * SAMPLE_RUN) / double(blocks);
        const auto rank = int64_t(expected + 2.5 * std::sqrt(expected) + 8);
        // The number of items that enter a list with a guess, and without one, when the limit of the list rises from its entries.
        const double entering = double(rank) * SAMPLED, rising = double(k) * (1 + std::log(double(search.items) / double(k)));
        if (runs < 16 || entering > rising / 2) return;
        start(0, rank);
        for (int64_t run = 0; run < runs; ++run) {
            const int64_t block = blocks * run / runs;
            level.scan(search, units.data(), count, block, block + SAMPLE_RUN, &best[0], &limits[0]);
        }
        for (int64_t q = 0; q < count; ++q) {
            const bool known = best[size_t(q)].count > rank;  // then shortening finds the limit
            shorten(best[size_t(q)], limits[size_t(q)], search.scale);
            Limit limit = known ? limits[size_t(q)] : none();
            // Items of the same value must still exceed the limit.
            if (known && search.scale) limit.real = std::nextafterf(limit.real, -INFINITY);
            else if (known) limit.whole -= 1;
            guesses[size_t(q)] = limit;
            guessed[size_t(q)] = known;
        }
    }

    void forget_guesses() {
        std::fill(guesses.begin(), guesses.end(), none());
        std::fill(guessed.begin(), guessed.end(), false);
    }

    Limit none() const {
        Limit limit;
        if (search.scale) limit.real = -INFINITY;
        else limit.whole = INT32_MIN;
        return limit;
    }

    void start(int64_t member, int64_t k) {
        for (int64_t q = 0; q < count; ++q) {
            const auto at = size_t(member * count + q);
            best[at] = {&entries[at * size_t(capacity)], 0, capacity, k, first + q};
            limits[at] = guesses[size_t(q)];
        }
    }

    // Whether no list is short because of a guess.
    bool complete() const {
        for (int64_t q = 0; q < count; ++q) {
            int64_t found = guessed[size_t(q)] ? 0 : search.items;
            for (int64_t m = 0; m < members; ++m) found += best[size_t(m * count + q)].count;
            if (found < std::min(search.k, search.items)) return false;
        }
        return true;
    }

    void scan(int64_t member) {
        const int64_t blocks = (search.items + BLOCK - 1) / BLOCK;
        Best* own = &best[size_t(member * count)];
        Limit* limit = &limits[size_t(member * count)];
        start(member, std::min(search.k, search.items));
        level.scan(search, units.data(), count, blocks * member / members, blocks * (member + 1) / members, own, limit);
        for (int64_t q = 0; q < count; ++q) shorten(own[q], limit[q], search.scale);
    }

    void merge(int64_t member) {
        for (int64_t q = count * member / members; q < count * (member + 1) / members; ++q) {
            // After shortening, the k best of two members fit one list.
            Best& all = best[size_t(q)];
            Limit unused;
            for (int64_t m = 1; m < members; ++m) {
                const Best& other = best[size_t(m * count + q)];
                std::copy(other.entries, other.entries + other.count, all.entries + all.count);
                all.count += other.count;
                shorten(all, unused, search.scale);
            }
            if (!search.scores) {
                list_ids(all.entries, all.count, search.k, search.ids + (first + q) * search.k);
                continue;
            }
            const float gain = search.gain ? search.gain[first + q] : 1.0f, offset = search.gain ? search.offset[first + q] : 0.0f;
            const auto value = [this, gain, offset](uint32_t key) {
                const float plain = search.scale ? real_of(key) : float(search.hamming ? search.dim + 2 * whole_of(key) : whole_of(key));
                return search.gain ? plain * gain + offset : plain;
            };
            answer(all.entries, all.count, search.k, value, search.scores + (first + q) * search.k, search.ids + (first + q) * search.k);
        }
    }
};

void search_all(const RecfxSearch& search, const ScanLevel& level, int64_t threads) {
    const int64_t k = std::min(search.k, search.items), capacity = 2 * k + 64;
    const int64_t stride = units_of(search, level.depth), blocks = (search.items + BLOCK - 1) / BLOCK;
    const int64_t work = blocks * BLOCK * search.words * search.queries;
    const int64_t members = std::max<int64_t>(1, std::min({threads, blocks, work / LEAST_STEPS}));
    int64_t group = std::min({search.queries, GROUP_BYTES / (stride * 4), LIST_BYTES / (members * capacity * 8)});
    group = std::max<int64_t>(1, group);
    Call call{search, level, members, capacity, 0, 0, {}, {}, {}, {}, {}, {}};
    call.units.resize(size_t((group + level.tile - 1) / level.tile * level.tile * stride));
    call.entries.resize(size_t(members * group * capacity));
    call.best.resize(size_t(members * group));
    call.limits.resize(size_t(members * group));
    call.guesses.resize(size_t(group));
    call.guessed.resize(size_t(group));
    for (; call.first < search.queries; call.first += call.count) {
        call.count = std::min(group, search.queries - call.first);
        level.lay_out(search, call.first, call.count, call.units.data());
        const auto scan_all = [&] { run(members, [](void* state, int64_t member) { static_cast<Call*>(state)->scan(member); }, &call); };
        call.forget_guesses();
        call.guess();
        scan_all();
        if (!call.complete()) {
            call.forget_guesses();
            scan_all();
        }
        run(members, [](void* state, int64_t member) { static_cast<Call*>(state)->merge(member); }, &call);
    }
}

// A search, and its queries after rounding.
struct RoundedQueries {
    RecfxSearch search;
    int64_t unfit;  // the first row that a search cannot rank by, or -1
    std::vector<uint32_t> rows;
    std::vector<float> numbers;

    explicit RoundedQueries(const RecfxSearch& asked) : search(asked), numbers(size_t(3 * asked.queries)) {
        const int64_t words = asked.hamming ? asked.words : asked.words * 8 / asked.bits;  // 32 / bits numbers of a byte go with a word
        rows.resize(size_t(asked.queries * words));
        float* at = numbers.data();
        const RecfxQueries work{int64_t(sizeof work), asked.queries, asked.dim, asked.query_kind, asked.hamming ? words : words * 4,
                                asked.values, rows.data(), asked.query_step, asked.query_lower, asked.query_constant,
                                at, at + asked.queries, at + 2 * asked.queries};
        unfit = recfx_round_queries(&work);
        search.query_rows = rows.data();
        search.gain = work.gain;
        search.offset = work.offset;
        search.query_sum = work.sums;
    }
};

struct RescoreCall {
    const RecfxRescore& search;
    const ScanLevel& level;
    int64_t members, capacity;
    std::vector<uint64_t> entries;

    void part(int64_t member) {
        for (int64_t q = search.queries * member / members; q < search.queries * (member + 1) / members; ++q) {
            Best best{&entries[size_t(member * capacity)], 0, capacity, std::min(search.k, search.candidates), q};
            level.rescore(search, q, best);
            answer(best.entries, best.count, search.k, real_of, search.scores + q * search.k, search.ids + q * search.k);
        }
    }
};

}  // namespace

void enter(const RecfxSearch& search, Best& best, Limit& limit, int64_t first, uint32_t mask, const int32_t* values) {
    enter_all(search, best, limit, first, mask, values, false);
}
void enter(const RecfxSearch& search, Best& best, Limit& limit, int64_t first, uint32_t mask, const float* values) {
    enter_all(search, best, limit, first, mask, values, true);
}

}  // namespace recfx

extern "C" {

int64_t recfx_search(const char* name, const RecfxSearch* search, int64_t threads) {
    if (search->struct_bytes != int64_t(sizeof *search)) return SEARCH_OTHER_SOURCES;
    const recfx::ScanLevel* level = recfx::find_scan_level(name);
    if (!level) return SEARCH_NO_LEVEL;
    try {
        if (!search->values) {
            recfx::search_all(*search, *level, threads);
            return SEARCH_DONE;
        }
        recfx::RoundedQueries rounded(*search);
        if (rounded.unfit >= 0) return SEARCH_UNFIT_ROW - rounded.unfit;
        recfx::search_all(rounded.search, *level, threads);
    } catch (const std::bad_alloc&) {
        return SEARCH_NO_MEMORY;
    }
    return SEARCH_DONE;
}

int64_t recfx_rescore(const char* name, const RecfxRescore* search, int64_t threads) {
    if (search->struct_bytes != int64_t(sizeof *search)) return SEARCH_OTHER_SOURCES;
    const recfx::ScanLevel* level = recfx::find_scan_level(name);
    if (!level) return SEARCH_NO_LEVEL;
    try {
        const int64_t members = std::max<int64_t>(1, std::min(threads, search->queries));
        const int64_t capacity = 2 * std::min(search->k, search->candidates) + 64;
        recfx::RescoreCall call{*search, *level, members, capacity, std::vector<uint64_t>(size_t(members * capacity))};
        recfx::run(members, [](void* state, int64_t member) { static_cast<recfx::RescoreCall*>(state)->part(member); }, &call);
    } catch (const std::bad_alloc&) {
        return SEARCH_NO_MEMORY;
    }
    return SEARCH_DONE;
}
}
