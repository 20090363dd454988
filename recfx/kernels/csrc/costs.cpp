#include "costs.h"

namespace recfx {
namespace {

// Rounded from measurements on one thread of an AMD EPYC of family 25, model 17 (Zen 4), at the level avx512_bf16, in November 2026. They
// only need to distinguish microseconds of work from milliseconds, so a factor of two on another processor does not matter.
constexpr double OPERATIONS_PER_NS = 200;   // multiplications and additions of products: float32 109, bfloat16 217, int8 416
constexpr double WEIGHT_BYTES_PER_NS = 50;  // weights of a product with one row: 49 of 256 KiB, 73 of 1 MiB, 88 of 4 MiB
constexpr double TABLE_ROW_NS = 15;         // random rows of 256 bytes: 8 in a table of 5 MB, 12 in one of 256 MB on large pages
constexpr double ELEMENT_NS = 2;            // elements of other results: softmax 0.6, layer norm 0.7, sums and sigmoids 0.8, running sums 1.3
constexpr int64_t JAGGED_LENGTH = 8;        // the assumed number of ids of a bag of unknown length

double bytes_of_weight(int64_t format) { return format == WEIGHT_I8 ? 1 : format == WEIGHT_BF16 ? 2 : 4; }

template <class Int>
Cost product_cost(const RecfxStep& step) {
    const double size = double(step.ints[Int::outputs]) * double(step.ints[Int::inputs]);
    return {size * bytes_of_weight(step.ints[Int::format]) / WEIGHT_BYTES_PER_NS, double(product_rows(step)) * size * 2 / OPERATIONS_PER_NS};
}

Cost lookup_cost(const RecfxStep& step) {
    const auto* features = static_cast<const RecfxFeature*>(step.pointers[LookupPointer::features]);
    double rows = 0;
    for (int64_t i = 0; i < step.ints[LookupInt::features]; ++i) rows += double(features[i].length > 0 ? features[i].length : JAGGED_LENGTH);
    return {0, TABLE_ROW_NS * double(step.out.size[0]) * rows};
}

Cost key_scores_cost(const RecfxStep& step) {
    double products = 0, inputs = double(step.ints[KeyScoresInt::columns]);
    const int64_t* layer = step.ints + KeyScoresInt::layers;
    for (int64_t i = 0; i < step.ints[KeyScoresInt::layer_count]; ++i, layer += KeyScoresLayer::fields) {
        const double outputs = double(layer[KeyScoresLayer::outputs]);
        products += inputs * outputs;
        inputs = outputs;
    }
    return {0, double(product_rows(step)) * products * 2 / OPERATIONS_PER_NS};
}

double window_size(const RecfxStep& step) {
    return double(step.ints[ConvolveInt::channels]) * double(step.ints[ConvolveInt::rows]) * double(step.ints[ConvolveInt::columns]);
}

int64_t gates_of(int64_t cell) { return cell == CELL_LSTM ? 4 : cell == CELL_TANH || cell == CELL_RELU ? 1 : 3; }

Cost recurrent_cost(const RecfxStep& step) {
    const bool inputs_too = step.pointers[RecurrentPointer::input_weight] != nullptr;
    const double hidden = double(step.ints[RecurrentInt::hidden]), columns = hidden * double(gates_of(step.ints[RecurrentInt::cell]));
    const double products = (hidden + (inputs_too ? double(step.ints[RecurrentInt::inputs]) : 0)) * columns;
    const double steps = double(step.ints[RecurrentInt::steps]) * double(step.out.size[0]);
    return {products * 4 / WEIGHT_BYTES_PER_NS, steps * (products * 2 / OPERATIONS_PER_NS + ELEMENT_NS * columns)};
}

}  // namespace

Cost cost_of(const RecfxStep& step) {
    switch (step.kind) {
        case RECFX_GEMM: return product_cost<GemmInt>(step);
        case RECFX_CIN: return product_cost<CinInt>(step);
        case RECFX_RECURRENT: return recurrent_cost(step);
        case RECFX_LOOKUP: return lookup_cost(step);
        case RECFX_KEY_SCORES: return key_scores_cost(step);
        default: break;
    }
    double elements = 1;
    for (int i = 0; i < step.out.rank; ++i) elements *= double(step.out.size[i]);
    if (step.kind == RECFX_CONVOLVE) return {0, elements * window_size(step) * 2 / OPERATIONS_PER_NS};
    return {0, ELEMENT_NS * elements};
}

int64_t product_rows(const RecfxStep& step) {
    switch (step.kind) {
        case RECFX_GEMM: return step.views[GemmView::input].size[0];
        case RECFX_CIN: return step.views[CinView::maps].size[1];
        case RECFX_KEY_SCORES: return step.ints[KeyScoresInt::keys];
        default: return 1;
    }
}

}  // namespace recfx
