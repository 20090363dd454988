// Scores of a row's keys by the MLP of target attention. Keys lie along the lanes: a layer is a product of its weights with vectors of keys, so that
// neither a few outputs nor the single column of the last layer leave lanes empty.
//
// Of key k and query q the first layer reads W_k k + W_qk (q * k) = (W_k + W_qk diag(q)) k: a matrix per row, made once for all its keys, in place of
// two products for every key. Every sum runs over its inputs in order, in every chunk: results do not depend on the division of the work.
#pragma once
#include "activation.inl"
#include "kernels.h"

namespace recfx {
namespace {

constexpr int64_t KEY_VECTORS = 3;
#if RECFX_LANES == 16 || defined(__aarch64__)
constexpr int KEY_OUTPUTS = 8;  // 24 of 32 registers hold sums
#else
constexpr int KEY_OUTPUTS = 4;  // 12 of 16
#endif

// Keys in chunks of up to KEY_VECTORS vectors, as even as can be. A chunk is [columns of a key][its vectors]; chunks lie one after another.
struct KeyChunks {
    int64_t keys, columns, vectors, count;

    KeyChunks(int64_t l, int64_t d) : keys(l), columns(d), vectors((l + W - 1) / W), count((vectors + KEY_VECTORS - 1) / KEY_VECTORS) {}
    void of(int64_t chunk, int64_t& first, int64_t& last) const { split(vectors, chunk, count, first, last); }
    int64_t offset(int64_t vector) const { return vector * W * columns; }
};

// keys [L, D]; out: the chunks. Lanes past the last key repeat it.
void turn_keys_step(const RecfxStep& step, const Context& context, const Range& range) {
    const RecfxView& keys = step.views[TurnKeysView::keys];
    const KeyChunks chunks(keys.size[0], keys.size[1]);
    const int64_t stride = keys.stride[0], d = chunks.columns;
    int64_t begin, end;
    split((range.end - range.begin) * chunks.count, range.part, range.parts, begin, end);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t row = range.begin + unit / chunks.count;
        int64_t first, last;
        chunks.of(unit % chunks.count, first, last);
        float* to = at<float>(context, step.out, row) + chunks.offset(first);
        const int64_t to_row = (last - first) * W;
        for (int64_t vector = first; vector < last; ++vector, to += W) {
            const float* from = at<const float>(context, keys, row) + vector * W * stride;
            const int64_t here = chunks.keys - vector * W < W ? chunks.keys - vector * W : W;
            int64_t k = 0;
            for (; k + W <= d; k += W) turn(from + k, stride, to + k * to_row, to_row, here);
            for (; k < d; ++k)
                for (int64_t lane = 0; lane < W; ++lane) to[k * to_row + lane] = from[(lane < here ? lane : here - 1) * stride + k];
        }
    }
}

// MR outputs for V vectors of keys: out[r] = sum over k of weight[k][r] x[k].
template <int V, int MR>
inline void key_tile(const float* weight, int64_t stride, const float* x, int64_t depth, float* out) {
    vf acc[MR][V] = {};
    for (int64_t k = 0; k < depth; ++k) {
        vf b[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) b[v] = load(x + (k * V + v) * W);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
            const vf a = splat(weight[k * stride + r]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] = acc[r][v] + a * b[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(out + (r * V + v) * W, acc[r][v]);
}

using KeyTile = void (*)(const float*, int64_t, const float*, int64_t, float*);

template <int V, int MR = 1>
inline KeyTile key_tile_of(int64_t outputs) {
    if constexpr (MR > KEY_OUTPUTS)
        return nullptr;
    else
        return outputs == MR ? &key_tile<V, MR> : key_tile_of<V, MR + 1>(outputs);
}

// One layer: `weight` is [inputs][stride].
struct KeyLayer {
    const float *weight, *bias;
    int64_t inputs, outputs, stride;
    Activation activation;
};

template <int V>
inline void key_layer(const KeyLayer& layer, const float* x, float* out) {
    for (int64_t r = 0; r < layer.outputs; r += KEY_OUTPUTS) {
        const int64_t count = layer.outputs - r < KEY_OUTPUTS ? layer.outputs - r : KEY_OUTPUTS;
        key_tile_of<V>(count)(layer.weight + r, layer.stride, x, layer.inputs, out + r * V * W);
    }
    with_kind(layer.activation.kind, [&](auto kind) {
        for (int64_t r = 0; r < layer.outputs; ++r) {
            const vf bias = splat(layer.bias[r]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                float* y = out + (r * V + v) * W;
                store(y, activate_as<kind.value>(load(y) + bias, layer.activation, [r](const float* p) { return splat(p[r]); }));
            }
        }
    });
}

static_assert(KeyScoresInt::layers + RECFX_KEY_LAYERS * KeyScoresLayer::fields <= RECFX_INTS, "layers");
static_assert(KeyScoresFloat::numbers + RECFX_KEY_LAYERS <= RECFX_FLOATS, "numbers of activations");
static_assert(KeyScoresPointer::layers + RECFX_KEY_LAYERS * KeyScoresLayerPointer::fields <= RECFX_POINTERS, "weights of layers");

// All layers for one chunk of V vectors; returns the buffer, one of the two, that holds the scores.
template <int V>
inline const float* key_chunk(const KeyLayer* layers, int64_t count, const float* keys, float* const* buffers) {
    const float* x = keys;
    for (int64_t i = 0; i < count; ++i) {
        key_layer<V>(layers[i], x, buffers[i % 2]);
        x = buffers[i % 2];
    }
    return x;
}

// weight[k] = of_keys[k] + query[k] * of_products[k].
inline void weigh_keys(const float* of_keys, const float* of_products, const float* query, int64_t depth, int64_t stride, float* weight) {
    for (int64_t k = 0; k < depth; ++k) {
        const vf q = splat(query[k]);
        for (int64_t i = k * stride; i < (k + 1) * stride; i += W) store(weight + i, load(of_keys + i) + q * load(of_products + i));
    }
}

// of_keys and of_products [D][stride]; transposed keys, query [D], first_bias [outputs]; out [L].
void key_scores_step(const RecfxStep& step, const Context& context, const Range& range) {
    const KeyChunks chunks(step.ints[KeyScoresInt::keys], step.ints[KeyScoresInt::columns]);
    const int64_t d = chunks.columns, count = step.ints[KeyScoresInt::layer_count];
    KeyLayer layers[RECFX_KEY_LAYERS];
    int64_t widest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t* ints = step.ints + KeyScoresInt::layers + i * KeyScoresLayer::fields;
        const void* const* pointers = step.pointers + KeyScoresPointer::layers + i * KeyScoresLayerPointer::fields;
        const auto* vectors = static_cast<const float*>(pointers[KeyScoresLayerPointer::vectors]);
        const int64_t stride = ints[KeyScoresLayer::stride], outputs = ints[KeyScoresLayer::outputs];
        const float number = float(step.floats[KeyScoresFloat::numbers + i]);
        layers[i] = {static_cast<const float*>(pointers[KeyScoresLayerPointer::weight]), vectors, i ? layers[i - 1].outputs : d, outputs, stride,
                     {ints[KeyScoresLayer::activation], number, vectors + stride, vectors + 2 * stride, vectors + 3 * stride}};
        widest = outputs > widest ? outputs : widest;
    }
    const int64_t matrix = d * layers[0].stride, buffer = widest * KEY_VECTORS * W;
    auto* scratch = static_cast<float*>(context.scratch->at_least(size_t(matrix + 2 * buffer) * 4));
    if (!scratch) return context.errors->no_memory(context.step, (matrix + 2 * buffer) * 4);
    float* const buffers[] = {scratch + matrix, scratch + matrix + buffer};
    layers[0].weight = scratch;
    int64_t begin, end, weighed = -1;
    split((range.end - range.begin) * chunks.count, range.part, range.parts, begin, end);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t row = range.begin + unit / chunks.count;
        if (row != weighed)
            weigh_keys(static_cast<const float*>(step.pointers[KeyScoresPointer::of_keys]),
                       static_cast<const float*>(step.pointers[KeyScoresPointer::of_products]),
                       at<const float>(context, step.views[KeyScoresView::query], row), d, layers[0].stride, scratch);
        weighed = row;
        layers[0].bias = at<const float>(context, step.views[KeyScoresView::first_bias], row);
        int64_t first, last;
        chunks.of(unit % chunks.count, first, last);
        const float* keys = at<const float>(context, step.views[KeyScoresView::keys], row) + chunks.offset(first);
        const float* scores = last - first == 1   ? key_chunk<1>(layers, count, keys, buffers)
                              : last - first == 2 ? key_chunk<2>(layers, count, keys, buffers)
                                                  : key_chunk<3>(layers, count, keys, buffers);
        float* to = at<float>(context, step.out, row) + first * W;
        const int64_t held = chunks.keys - first * W < (last - first) * W ? chunks.keys - first * W : (last - first) * W;
        __builtin_memcpy(to, scores, size_t(held) * 4);
    }
}

}  // namespace
}  // namespace recfx
