#include "costs.h"

namespace recfx {
namespace {

// COSTS_SOURCE
constexpr double OPERATIONS_PER_NS = 200;   // a product's multiplications and additions
constexpr double WEIGHT_BYTES_PER_NS = 50;  // weights in the second-level cache
constexpr double TABLE_ROW_NS = 15;         // a row at random in a table larger than the caches
constexpr double ELEMENT_NS = 2;            // an element of the result of any other step
constexpr int64_t JAGGED_LENGTH = 8;        // ids of a bag whose length the plan does not know

double bytes_of_weight(int64_t format) { return format == WEIGHT_I8 ? 1 : format == WEIGHT_BF16 ? 2 : 4; }

Cost product_cost(const RecfxStep& step) {
    const double size = double(step.ints[GemmInt::outputs]) * double(step.ints[GemmInt::inputs]);
    return {size * bytes_of_weight(step.ints[GemmInt::format]) / WEIGHT_BYTES_PER_NS, double(product_rows(step)) * size * 2 / OPERATIONS_PER_NS};
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

}  // namespace

Cost cost_of(const RecfxStep& step) {
    switch (step.kind) {
        case RECFX_GEMM: return product_cost(step);
        case RECFX_LOOKUP: return lookup_cost(step);
        case RECFX_KEY_SCORES: return key_scores_cost(step);
        default: break;
    }
    double elements = 1;
    for (int i = 0; i < step.out.rank; ++i) elements *= double(step.out.size[i]);
    return {0, ELEMENT_NS * elements};
}

int64_t product_rows(const RecfxStep& step) {
    switch (step.kind) {
        case RECFX_GEMM: return step.views[GemmView::input].size[0];
        case RECFX_KEY_SCORES: return step.ints[KeyScoresInt::keys];
        default: return 1;
    }
}

}  // namespace recfx
