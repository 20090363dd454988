"""The numbers that the lowering and the kernels share. Generated from codes.toml by `python recfx/kernels/csrc/generate.py`."""

from enum import IntEnum

#: The digest of the table.
DIGEST = 0xEA47115B54C995


class Size(IntEnum):
    """Section [size] of the table."""

    RANK = 4
    VIEWS = 8
    INTS = 64
    FLOATS = 24
    POINTERS = 12
    KEY_LAYERS = 5
    SEARCH_BLOCK = 16


class Dtype(IntEnum):
    """Section [dtype] of the table."""

    F32 = 0
    I64 = 1
    I32 = 2
    U8 = 3
    BF16 = 4
    F16 = 5


class Place(IntEnum):
    """Section [place] of the table."""

    INPUT = 0
    OUTPUT = 1
    TEMP = 2
    CONST = 3


class Kind(IntEnum):
    """Section [kind] of the table."""

    GEMM = 0
    LOOKUP = 1
    DOT = 2
    FM = 3
    POINTWISE = 4
    REDUCE = 5
    SOFTMAX = 6
    NORM = 7
    BMM = 8
    ATTENTION = 9
    TAKE = 10
    INTEGER = 11
    INTEGER_SUM = 12
    CODE_DOT = 13
    TURN_KEYS = 14
    KEY_SCORES = 15
    FOLD = 16
    SPREAD = 17
    RUNNING = 18
    ROW_NUMBERS = 19
    CIN = 20
    ORDER = 21
    CONVOLVE = 22
    RECURRENT = 23


class ErrorCode(IntEnum):
    """Section [error] of the table."""

    BAD_ID = 1
    BAD_OFFSETS = 2
    NO_MEMORY = 3
    NULL_ARGUMENT = 4
    IDS_BEHIND_BAGS = 5
    BAD_LENGTH = 6


class Op(IntEnum):
    """Section [op] of the table."""

    ADD = 0
    SUB = 1
    MUL = 2
    DIV = 3
    ADD_C = 4
    MUL_C = 5
    C_MINUS = 6
    C_OVER = 7
    RELU = 8
    GELU = 9
    GELU_TANH = 10
    SILU = 11
    SIGMOID = 12
    TANH = 13
    EXPONENTIAL = 14
    POWER_C = 15
    NEGATE = 16
    MAGNITUDE = 17
    CLAMP_LOW = 18
    CLAMP_HIGH = 19
    EQUAL_C = 20
    NOT_EQUAL_C = 21
    GREATER_C = 22
    AT_LEAST_C = 23
    LESS_C = 24
    AT_MOST_C = 25
    NOT = 26
    MASKED_FILL = 27
    LEAKY_RELU = 28
    PRELU = 29
    MAXIMUM = 30
    MINIMUM = 31
    DIV_C = 32
    WHERE = 33
    SQUARE = 34
    ERROR_FUNCTION = 35
    LOGARITHM = 36
    AND = 40
    OR = 41
    FLOOR_REMAINDER_C = 42
    EQUAL = 43
    NOT_EQUAL = 44
    GREATER = 45
    AT_LEAST = 46
    LESS = 47
    AT_MOST = 48
    FLOAT_TO_INT32 = 49
    ABSOLUTE = 50
    WHOLE_SIGN = 51
    XOR = 52
    FLOOR_QUOTIENT_C = 53
    QUOTIENT_C = 54
    CONSTANT = 55
    COPY = 63
    LOG1P = 64
    EXPM1 = 65
    SIGN = 66
    IS_FINITE = 67
    IS_NAN = 68
    IS_INFINITE = 69
    SINE = 70
    COSINE = 71
    TANGENT = 72
    ARC_TANGENT = 73
    ARC_SINE = 74
    ARC_COSINE = 75
    HYPERBOLIC_SINE = 76
    HYPERBOLIC_COSINE = 77
    AREA_SINE = 78
    AREA_COSINE = 79
    AREA_TANGENT = 80
    LOG2 = 81
    LOG10 = 82
    EXP2 = 83
    FLOOR = 84
    CEILING = 85
    ROUND = 86
    TRUNCATE = 87
    FRACTION = 88
    SIGN_BIT = 89
    SOFTPLUS = 90
    MISH = 91
    LOG_SIGMOID = 92
    HARD_SHRINK = 93
    SOFT_SHRINK = 94
    LOGIT = 95
    ARC_TANGENT2 = 112
    POWER = 113
    FLOAT_MODULO = 114
    FLOAT_REMAINDER = 115
    FLOOR_DIVISION = 116
    HYPOTENUSE = 117
    LARGER_NUMBER = 118
    SMALLER_NUMBER = 119
    COPY_SIGN = 120
    X_LOG_Y = 121
    LOG_ADD_EXP = 122
    BASE_POWER = 123
    REMAINDER_BY = 124
    FLOOR_DIVIDED_BY = 125
    TRUNCATED_QUOTIENT = 126


class Act(IntEnum):
    """Section [act] of the table."""

    NONE = 0
    RELU = 1
    GELU = 2
    GELU_TANH = 3
    SILU = 4
    SIGMOID = 5
    TANH = 6
    PRELU = 7
    DICE = 8
    LEAKY_RELU = 9
    ROW_DICE = 10


class Reduction(IntEnum):
    """Section [reduction] of the table."""

    SUM = 0
    MEAN = 1
    MAX = 2
    MIN = 3
    NORM = 4


class Fold(IntEnum):
    """Section [fold] of the table."""

    MAX = 0
    MIN = 1
    ARGMAX = 2
    ARGMIN = 3
    ANY = 4
    ALL = 5
    PRODUCT = 6
    COUNT = 7


class Ties(IntEnum):
    """Section [ties] of the table."""

    STABLE = 0
    CHOSEN = 1
    CHOSEN_UNSORTED = 2


class WeightFormat(IntEnum):
    """Section [weight_format] of the table."""

    F32 = 0
    BF16 = 1
    I8 = 2


class RowFormat(IntEnum):
    """Section [row_format] of the table."""

    F32 = 32
    BF16 = 16
    F16 = -16
    CODES_8 = 8
    CODES_4 = 4
    CODES_2 = 2
    CODES_1 = 1


class Pooling(IntEnum):
    """Section [pooling] of the table."""

    SUM = 0
    MEAN = 1
    NONE = 2


class Cell(IntEnum):
    """Section [cell] of the table."""

    GRU = 0
    LSTM = 1
    TANH = 2
    RELU = 3
    ATTENTION = 4


class PropagateResult(IntEnum):
    """Section [propagate_result] of the table."""

    DONE = 0
    BAD_OFFSETS = 1
    BAD_NEIGHBOUR = 2
    NO_LEVEL = 4


class BprResult(IntEnum):
    """Section [bpr_result] of the table."""

    DONE = 0
    BAD_USER = 1
    BAD_POSITIVE = 2
    BAD_NEGATIVE = 3
    NO_LEVEL = 4


class SearchResult(IntEnum):
    """Section [search_result] of the table."""

    UNFIT_ROW = -1
    DONE = 0
    NO_LEVEL = 1
    NO_MEMORY = 2
    OTHER_SOURCES = 3


class RoundingResult(IntEnum):
    """Section [rounding_result] of the table."""

    DONE = -1
    OTHER_SOURCES = -2


class RoundTo(IntEnum):
    """Section [rounding] of the table."""

    NUMBERS = 0
    SIGNS = 1
    BITS = 2
    CODES = 3
