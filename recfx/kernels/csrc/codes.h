// The numbers that the lowering and the kernels share. Generated from codes.toml by `python recfx/kernels/csrc/generate.py`.
#pragma once
#include <cstdint>

// The digest of the table.
constexpr int64_t RECFX_CODES = 0xEA47115B54C995;

enum RecfxSize : int32_t {
    RECFX_RANK = 4,
    RECFX_VIEWS = 8,
    RECFX_INTS = 64,
    RECFX_FLOATS = 24,
    RECFX_POINTERS = 12,
    RECFX_KEY_LAYERS = 5,
    RECFX_SEARCH_BLOCK = 16,
};

enum RecfxDtype : int32_t {
    RECFX_F32 = 0,
    RECFX_I64 = 1,
    RECFX_I32 = 2,
    RECFX_U8 = 3,
    RECFX_BF16 = 4,
    RECFX_F16 = 5,
};

enum RecfxSlotKind : int32_t {
    RECFX_INPUT = 0,
    RECFX_OUTPUT = 1,
    RECFX_TEMP = 2,
    RECFX_CONST = 3,
};

enum RecfxStepKind : int32_t {
    RECFX_GEMM = 0,
    RECFX_LOOKUP = 1,
    RECFX_DOT = 2,
    RECFX_FM = 3,
    RECFX_POINTWISE = 4,
    RECFX_REDUCE = 5,
    RECFX_SOFTMAX = 6,
    RECFX_NORM = 7,
    RECFX_BMM = 8,
    RECFX_ATTENTION = 9,
    RECFX_TAKE = 10,
    RECFX_INTEGER = 11,
    RECFX_INTEGER_SUM = 12,
    RECFX_CODE_DOT = 13,
    RECFX_TURN_KEYS = 14,
    RECFX_KEY_SCORES = 15,
    RECFX_FOLD = 16,
    RECFX_SPREAD = 17,
    RECFX_RUNNING = 18,
    RECFX_ROW_NUMBERS = 19,
    RECFX_CIN = 20,
    RECFX_ORDER = 21,
    RECFX_CONVOLVE = 22,
    RECFX_RECURRENT = 23,
};

enum RecfxErrorCode : int64_t {
    RECFX_BAD_ID = 1,
    RECFX_BAD_OFFSETS = 2,
    RECFX_NO_MEMORY = 3,
    RECFX_NULL_ARGUMENT = 4,
    RECFX_IDS_BEHIND_BAGS = 5,
    RECFX_BAD_LENGTH = 6,
};

enum RecfxOp : int64_t {
    OP_ADD = 0,
    OP_SUB = 1,
    OP_MUL = 2,
    OP_DIV = 3,
    OP_ADD_C = 4,
    OP_MUL_C = 5,
    OP_C_MINUS = 6,
    OP_C_OVER = 7,
    OP_RELU = 8,
    OP_GELU = 9,
    OP_GELU_TANH = 10,
    OP_SILU = 11,
    OP_SIGMOID = 12,
    OP_TANH = 13,
    OP_EXPONENTIAL = 14,
    OP_POWER_C = 15,
    OP_NEGATE = 16,
    OP_MAGNITUDE = 17,
    OP_CLAMP_LOW = 18,
    OP_CLAMP_HIGH = 19,
    OP_EQUAL_C = 20,
    OP_NOT_EQUAL_C = 21,
    OP_GREATER_C = 22,
    OP_AT_LEAST_C = 23,
    OP_LESS_C = 24,
    OP_AT_MOST_C = 25,
    OP_NOT = 26,
    OP_MASKED_FILL = 27,
    OP_LEAKY_RELU = 28,
    OP_PRELU = 29,
    OP_MAXIMUM = 30,
    OP_MINIMUM = 31,
    OP_DIV_C = 32,
    OP_WHERE = 33,
    OP_SQUARE = 34,
    OP_ERROR_FUNCTION = 35,
    OP_LOGARITHM = 36,
    OP_AND = 40,
    OP_OR = 41,
    OP_FLOOR_REMAINDER_C = 42,
    OP_EQUAL = 43,
    OP_NOT_EQUAL = 44,
    OP_GREATER = 45,
    OP_AT_LEAST = 46,
    OP_LESS = 47,
    OP_AT_MOST = 48,
    OP_FLOAT_TO_INT32 = 49,
    OP_ABSOLUTE = 50,
    OP_WHOLE_SIGN = 51,
    OP_XOR = 52,
    OP_FLOOR_QUOTIENT_C = 53,
    OP_QUOTIENT_C = 54,
    OP_CONSTANT = 55,
    OP_COPY = 63,
    OP_LOG1P = 64,
    OP_EXPM1 = 65,
    OP_SIGN = 66,
    OP_IS_FINITE = 67,
    OP_IS_NAN = 68,
    OP_IS_INFINITE = 69,
    OP_SINE = 70,
    OP_COSINE = 71,
    OP_TANGENT = 72,
    OP_ARC_TANGENT = 73,
    OP_ARC_SINE = 74,
    OP_ARC_COSINE = 75,
    OP_HYPERBOLIC_SINE = 76,
    OP_HYPERBOLIC_COSINE = 77,
    OP_AREA_SINE = 78,
    OP_AREA_COSINE = 79,
    OP_AREA_TANGENT = 80,
    OP_LOG2 = 81,
    OP_LOG10 = 82,
    OP_EXP2 = 83,
    OP_FLOOR = 84,
    OP_CEILING = 85,
    OP_ROUND = 86,
    OP_TRUNCATE = 87,
    OP_FRACTION = 88,
    OP_SIGN_BIT = 89,
    OP_SOFTPLUS = 90,
    OP_MISH = 91,
    OP_LOG_SIGMOID = 92,
    OP_HARD_SHRINK = 93,
    OP_SOFT_SHRINK = 94,
    OP_LOGIT = 95,
    OP_ARC_TANGENT2 = 112,
    OP_POWER = 113,
    OP_FLOAT_MODULO = 114,
    OP_FLOAT_REMAINDER = 115,
    OP_FLOOR_DIVISION = 116,
    OP_HYPOTENUSE = 117,
    OP_LARGER_NUMBER = 118,
    OP_SMALLER_NUMBER = 119,
    OP_COPY_SIGN = 120,
    OP_X_LOG_Y = 121,
    OP_LOG_ADD_EXP = 122,
    OP_BASE_POWER = 123,
    OP_REMAINDER_BY = 124,
    OP_FLOOR_DIVIDED_BY = 125,
    OP_TRUNCATED_QUOTIENT = 126,
};

enum RecfxAct : int64_t {
    ACT_NONE = 0,
    ACT_RELU = 1,
    ACT_GELU = 2,
    ACT_GELU_TANH = 3,
    ACT_SILU = 4,
    ACT_SIGMOID = 5,
    ACT_TANH = 6,
    ACT_PRELU = 7,
    ACT_DICE = 8,
    ACT_LEAKY_RELU = 9,
    ACT_ROW_DICE = 10,
};

enum RecfxReduction : int64_t {
    REDUCE_SUM = 0,
    REDUCE_MEAN = 1,
    REDUCE_MAX = 2,
    REDUCE_MIN = 3,
    REDUCE_NORM = 4,
};

enum RecfxFold : int64_t {
    FOLD_MAX = 0,
    FOLD_MIN = 1,
    FOLD_ARGMAX = 2,
    FOLD_ARGMIN = 3,
    FOLD_ANY = 4,
    FOLD_ALL = 5,
    FOLD_PRODUCT = 6,
    FOLD_COUNT = 7,
};

enum RecfxTies : int64_t {
    TIES_STABLE = 0,
    TIES_CHOSEN = 1,
    TIES_CHOSEN_UNSORTED = 2,
};

enum RecfxWeightFormat : int32_t {
    WEIGHT_F32 = 0,
    WEIGHT_BF16 = 1,
    WEIGHT_I8 = 2,
};

enum RecfxRowFormat : int32_t {
    ROWS_F32 = 32,
    ROWS_BF16 = 16,
    ROWS_F16 = -16,
    ROWS_CODES_8 = 8,
    ROWS_CODES_4 = 4,
    ROWS_CODES_2 = 2,
    ROWS_CODES_1 = 1,
};

enum RecfxPooling : int32_t {
    POOL_SUM = 0,
    POOL_MEAN = 1,
    POOL_NONE = 2,
};

enum RecfxCell : int64_t {
    CELL_GRU = 0,
    CELL_LSTM = 1,
    CELL_TANH = 2,
    CELL_RELU = 3,
    CELL_ATTENTION = 4,
};

enum RecfxPropagateResult : int64_t {
    PROPAGATE_DONE = 0,
    PROPAGATE_BAD_OFFSETS = 1,
    PROPAGATE_BAD_NEIGHBOUR = 2,
    PROPAGATE_NO_LEVEL = 4,
};

enum RecfxBprResult : int64_t {
    BPR_DONE = 0,
    BPR_BAD_USER = 1,
    BPR_BAD_POSITIVE = 2,
    BPR_BAD_NEGATIVE = 3,
    BPR_NO_LEVEL = 4,
};

enum RecfxSearchResult : int64_t {
    SEARCH_UNFIT_ROW = -1,
    SEARCH_DONE = 0,
    SEARCH_NO_LEVEL = 1,
    SEARCH_NO_MEMORY = 2,
    SEARCH_OTHER_SOURCES = 3,
};

enum RecfxRoundingResult : int64_t {
    ROUNDING_DONE = -1,
    ROUNDING_OTHER_SOURCES = -2,
};

enum RecfxRoundTo : int64_t {
    TO_NUMBERS = 0,
    TO_SIGNS = 1,
    TO_BITS = 2,
    TO_CODES = 3,
};

// X(NAME, name) for every kind of step.
#define RECFX_EACH_STEP(X) \
    X(GEMM, gemm) \
    X(LOOKUP, lookup) \
    X(DOT, dot) \
    X(FM, fm) \
    X(POINTWISE, pointwise) \
    X(REDUCE, reduce) \
    X(SOFTMAX, softmax) \
    X(NORM, norm) \
    X(BMM, bmm) \
    X(ATTENTION, attention) \
    X(TAKE, take) \
    X(INTEGER, integer) \
    X(INTEGER_SUM, integer_sum) \
    X(CODE_DOT, code_dot) \
    X(TURN_KEYS, turn_keys) \
    X(KEY_SCORES, key_scores) \
    X(FOLD, fold) \
    X(SPREAD, spread) \
    X(RUNNING, running) \
    X(ROW_NUMBERS, row_numbers) \
    X(CIN, cin) \
    X(ORDER, order) \
    X(CONVOLVE, convolve) \
    X(RECURRENT, recurrent)

constexpr int32_t RECFX_STEP_KINDS = 24;
