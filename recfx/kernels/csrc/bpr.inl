// Pairwise ranking losses over tables of embeddings: the loss of a batch and its gradient with respect to both tables.
#pragma once
#include "kernels.h"
#include "simd.inl"

namespace recfx {
namespace {

// a . (b - c)
inline float dot_difference(const float* a, const float* b, const float* c, int64_t n) {
    vf sum = {};
    int64_t i = 0;
    for (; i + W <= n; i += W) sum += load(a + i) * (load(b + i) - load(c + i));
    if (i < n) sum += load_some(a + i, n - i) * (load_some(b + i, n - i) - load_some(c + i, n - i));
    return sum_lanes(sum);
}

// y += by * x
inline void add_scaled(float* y, const float* x, float by, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, load(y + i) + load(x + i) * by);
    if (i < n) store_some(y + i, load_some(y + i, n - i) + load_some(x + i, n - i) * by, n - i);
}

__attribute__((always_inline)) inline void ask_for_row(const float* row, int64_t columns) {
    const int64_t bytes = columns * 4 < 512 ? columns * 4 : 512;
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<const char*>(row) + b);
}

// Replaces the M values x_m = u . (p - n_m) by slopes and returns the loss. One loss for each value: the sum of softplus(-x_m), with slopes
// -sigmoid(-x_m).
inline double each(float* x, int64_t count, double share) {
    double loss = 0;
    for (int64_t m = 0; m < count; ++m) {
        const double v = x[m];
        x[m] = float(-share / (1.0 + __builtin_exp(v)));
        loss += (v < 0 ? -v : 0.0) + __builtin_log1p(__builtin_exp(v < 0 ? v : -v));
    }
    return loss;
}

// The same for one joint loss: log(1 + sum of exp(-x_m)), the negative logarithm of the positive's softmax over all items.
inline double jointly(float* x, int64_t count, double share) {
    double highest = 0;
    for (int64_t m = 0; m < count; ++m) highest = -double(x[m]) > highest ? -double(x[m]) : highest;
    double total = __builtin_exp(-highest);
    for (int64_t m = 0; m < count; ++m) total += __builtin_exp(-double(x[m]) - highest);
    for (int64_t m = 0; m < count; ++m) x[m] = float(-share * __builtin_exp(-double(x[m]) - highest) / total);
    return highest + __builtin_log(total);
}

// How many samples ahead rows are prefetched: few if a sample has many rows, so that they fit into the first-level cache.
inline int64_t samples_ahead(const Bpr& p) { return p.negative_count < 1 || p.negative_count >= 8 ? 1 : 8 / p.negative_count; }

// For samples [begin, end): the slopes (the derivatives of the mean loss with respect to x), the losses, and the shares of the users'
// gradients.
void bpr_slopes(const Bpr& p, int64_t begin, int64_t end) {
    const double share = 1.0 / (double(p.batch) * (p.joint ? 1.0 : double(p.negative_count)));
    const int64_t ahead = samples_ahead(p);
    for (int64_t b = begin; b < end; ++b) {
        if (b + ahead < end) {
            ask_for_row(p.user_row(b + ahead), p.columns);
            ask_for_row(p.positive_row(b + ahead), p.columns);
            for (int64_t m = 0; m < p.negative_count; ++m) ask_for_row(p.negative_row(b + ahead, m), p.columns);
        }
        float* slopes = p.slopes + b * p.negative_count;
        for (int64_t m = 0; m < p.negative_count; ++m) slopes[m] = dot_difference(p.user_row(b), p.positive_row(b), p.negative_row(b, m), p.columns);
        p.losses[b] = p.joint ? jointly(slopes, p.negative_count, share) : each(slopes, p.negative_count, share);
        float* to = p.user_shares + b * p.columns;
        for (int64_t c = 0; c < p.columns; ++c) to[c] = 0;
        float total = 0;
        for (int64_t m = 0; m < p.negative_count; ++m) {
            total += slopes[m];
            add_scaled(to, p.negative_row(b, m), -slopes[m], p.columns);
        }
        add_scaled(to, p.positive_row(b), total, p.columns);
    }
}

// Adds every sample's share to the gradient's rows [first, last) of users, or of items. Samples in order, so that sums do not depend on threads.
void bpr_user_rows(const Bpr& p, int64_t first, int64_t last) {
    for (int64_t b = 0; b < p.batch; ++b)
        if (p.users[b] >= first && p.users[b] < last) add_scaled(p.user_gradient + p.users[b] * p.columns, p.user_shares + b * p.columns, 1.0f, p.columns);
}

void bpr_item_rows(const Bpr& p, int64_t first, int64_t last) {
    const int64_t ahead = samples_ahead(p);
    for (int64_t b = 0; b < p.batch; ++b) {
        if (b + ahead < p.batch) {
            ask_for_row(p.user_row(b + ahead), p.columns);
            for (int64_t m = 0; m < p.negative_count; ++m) ask_for_row(p.item_gradient + p.negatives[(b + ahead) * p.negative_count + m] * p.columns, p.columns);
        }
        const float* user = p.user_row(b);
        float total = 0;
        for (int64_t m = 0; m < p.negative_count; ++m) {
            const float slope = p.slopes[b * p.negative_count + m];
            const int64_t item = p.negatives[b * p.negative_count + m];
            total += slope;
            if (item >= first && item < last) add_scaled(p.item_gradient + item * p.columns, user, -slope, p.columns);
        }
        if (p.positives[b] >= first && p.positives[b] < last) add_scaled(p.item_gradient + p.positives[b] * p.columns, user, total, p.columns);
    }
}

}  // namespace
}  // namespace recfx
