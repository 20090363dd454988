"""The arguments of steps by name. Generated from codes.toml by `python recfx/kernels/csrc/generate.py`."""

# fmt: off
from enum import IntEnum

from recfx.kernels.codes import Kind

GemmView = IntEnum("GemmView", ["INPUT", "FACTOR", "SUMMAND"], start=0)
GemmInt = IntEnum("GemmInt", ["FORMAT", "OUTPUTS", "INPUTS", "ACTIVATION", "SUMS_FIRST"], start=0)
GemmFloat = IntEnum("GemmFloat", ["ACTIVATION_NUMBER", "INPUT_SCALE"], start=0)
GemmPointer = IntEnum("GemmPointer", ["WEIGHT", "BIAS", "SCALE", "COLUMN_SUMS", "SLOPE", "GATE_SCALE", "GATE_SHIFT", "FACTORS"], start=0)
LookupInt = IntEnum("LookupInt", ["FEATURES"], start=0)
LookupPointer = IntEnum("LookupPointer", ["FEATURES"], start=0)
DotView = IntEnum("DotView", ["VECTORS", "PREFIX"], start=0)
DotInt = IntEnum("DotInt", ["PREFIX_COLUMNS", "SELF_PAIRS", "UPPER"], start=0)
FmView = IntEnum("FmView", ["VECTORS"], start=0)
FmInt = IntEnum("FmInt", ["TOTAL"], start=0)
ElementsView = IntEnum("ElementsView", ["OPERANDS"], start=0)
ElementsInt = IntEnum("ElementsInt", ["COUNT", "PROGRAM"], start=0)
ElementsFloat = IntEnum("ElementsFloat", ["CONSTANTS"], start=0)
ElementsOperation = IntEnum("ElementsOperation", ["CODE", "LEFT", "RIGHT", "OTHER"], start=0)
ReduceView = IntEnum("ReduceView", ["INPUT"], start=0)
ReduceInt = IntEnum("ReduceInt", ["REDUCTION"], start=0)
SoftmaxView = IntEnum("SoftmaxView", ["INPUT"], start=0)
NormView = IntEnum("NormView", ["INPUT", "RESIDUAL"], start=0)
NormInt = IntEnum("NormInt", ["ACTIVATION"], start=0)
NormFloat = IntEnum("NormFloat", ["EPSILON", "ACTIVATION_NUMBER"], start=0)
NormPointer = IntEnum("NormPointer", ["WEIGHT", "BIAS", "SLOPE", "GATE_SCALE", "GATE_SHIFT"], start=0)
BmmView = IntEnum("BmmView", ["LEFT", "RIGHT"], start=0)
BmmFloat = IntEnum("BmmFloat", ["FACTOR"], start=0)
AttentionView = IntEnum("AttentionView", ["QUERY", "KEY", "VALUE", "MASK"], start=0)
AttentionInt = IntEnum("AttentionInt", ["CAUSAL", "MASK_IS_BOOLEAN"], start=0)
AttentionFloat = IntEnum("AttentionFloat", ["SCALE"], start=0)
TakeView = IntEnum("TakeView", ["SOURCE", "INDEX"], start=0)
TakeInt = IntEnum("TakeInt", ["STRIDE", "LIMIT", "WRAPS"], start=0)
IntegerSumView = IntEnum("IntegerSumView", ["INPUT"], start=0)
IntegerSumInt = IntEnum("IntegerSumInt", ["RUNNING"], start=0)
CodeDotView = IntEnum("CodeDotView", ["QUERY", "IDS"], start=0)
CodeDotInt = IntEnum("CodeDotInt", ["ROWS", "ROW_BYTES", "CODE_BYTES", "BITS", "QUERY_BITS"], start=0)
CodeDotPointer = IntEnum("CodeDotPointer", ["TABLE"], start=0)
TurnKeysView = IntEnum("TurnKeysView", ["KEYS"], start=0)
KeyScoresView = IntEnum("KeyScoresView", ["KEYS", "QUERY", "FIRST_BIAS"], start=0)
KeyScoresInt = IntEnum("KeyScoresInt", ["KEYS", "COLUMNS", "LAYER_COUNT", "LAYERS"], start=0)
KeyScoresFloat = IntEnum("KeyScoresFloat", ["NUMBERS"], start=0)
KeyScoresPointer = IntEnum("KeyScoresPointer", ["OF_KEYS", "OF_PRODUCTS", "LAYERS"], start=0)
KeyScoresLayer = IntEnum("KeyScoresLayer", ["OUTPUTS", "STRIDE", "ACTIVATION"], start=0)
KeyScoresLayerPointer = IntEnum("KeyScoresLayerPointer", ["VECTORS", "WEIGHT"], start=0)
FoldView = IntEnum("FoldView", ["INPUT"], start=0)
FoldInt = IntEnum("FoldInt", ["FOLD"], start=0)
SpreadView = IntEnum("SpreadView", ["INPUT"], start=0)
SpreadInt = IntEnum("SpreadInt", ["DEVIATION"], start=0)
SpreadFloat = IntEnum("SpreadFloat", ["CORRECTION"], start=0)
RunningView = IntEnum("RunningView", ["INPUT"], start=0)
RunningInt = IntEnum("RunningInt", ["PRODUCTS"], start=0)
RowNumbersInt = IntEnum("RowNumbersInt", ["START", "STEP", "COUNT"], start=0)
CinView = IntEnum("CinView", ["MAPS", "VECTORS"], start=0)
CinInt = IntEnum("CinInt", ["FORMAT", "OUTPUTS", "INPUTS", "ACTIVATION", "TRIANGLE"], start=0)
CinFloat = IntEnum("CinFloat", ["ACTIVATION_NUMBER", "INPUT_SCALE"], start=0)
CinPointer = IntEnum("CinPointer", ["WEIGHT", "BIAS", "SCALE", "COLUMN_SUMS", "SLOPE", "GATE_SCALE", "GATE_SHIFT"], start=0)
OrderView = IntEnum("OrderView", ["INPUT"], start=0)
OrderInt = IntEnum("OrderInt", ["LARGEST", "TIES", "RISING"], start=0)
ConvolveView = IntEnum("ConvolveView", ["INPUT"], start=0)
ConvolveInt = IntEnum("ConvolveInt", ["CHANNELS", "CHANNEL_STRIDE", "ROWS", "ROW_STRIDE", "COLUMNS", "COLUMN_STRIDE"], start=0)
ConvolvePointer = IntEnum("ConvolvePointer", ["WEIGHT", "BIAS"], start=0)
RecurrentView = IntEnum("RecurrentView", ["GIVEN", "STATE", "MEMORY", "ATTENTION", "LENGTHS"], start=0)
RecurrentInt = IntEnum("RecurrentInt", ["CELL", "STEPS", "HIDDEN", "BACKWARDS", "INPUTS", "ENDS"], start=0)
RecurrentPointer = IntEnum("RecurrentPointer", ["WEIGHT", "BIAS", "INPUT_WEIGHT", "INPUT_BIAS"], start=0)

#: The endings of the names of enumerations: for views, ints, floats and pointers of a step.
ENDINGS = ("View", "Int", "Float", "Pointer")

#: Kind -> the enumerations that name its arguments.
NAMES: dict[Kind, tuple[type[IntEnum], ...]] = {
    Kind.GEMM: (GemmView, GemmInt, GemmFloat, GemmPointer),
    Kind.LOOKUP: (LookupInt, LookupPointer),
    Kind.DOT: (DotView, DotInt),
    Kind.FM: (FmView, FmInt),
    Kind.POINTWISE: (ElementsView, ElementsInt, ElementsFloat, ElementsOperation),
    Kind.INTEGER: (ElementsView, ElementsInt, ElementsFloat, ElementsOperation),
    Kind.REDUCE: (ReduceView, ReduceInt),
    Kind.SOFTMAX: (SoftmaxView,),
    Kind.NORM: (NormView, NormInt, NormFloat, NormPointer),
    Kind.BMM: (BmmView, BmmFloat),
    Kind.ATTENTION: (AttentionView, AttentionInt, AttentionFloat),
    Kind.TAKE: (TakeView, TakeInt),
    Kind.INTEGER_SUM: (IntegerSumView, IntegerSumInt),
    Kind.CODE_DOT: (CodeDotView, CodeDotInt, CodeDotPointer),
    Kind.TURN_KEYS: (TurnKeysView,),
    Kind.KEY_SCORES: (KeyScoresView, KeyScoresInt, KeyScoresFloat, KeyScoresPointer, KeyScoresLayer, KeyScoresLayerPointer),
    Kind.FOLD: (FoldView, FoldInt),
    Kind.SPREAD: (SpreadView, SpreadInt, SpreadFloat),
    Kind.RUNNING: (RunningView, RunningInt),
    Kind.ROW_NUMBERS: (RowNumbersInt,),
    Kind.CIN: (CinView, CinInt, CinFloat, CinPointer),
    Kind.ORDER: (OrderView, OrderInt),
    Kind.CONVOLVE: (ConvolveView, ConvolveInt, ConvolvePointer),
    Kind.RECURRENT: (RecurrentView, RecurrentInt, RecurrentPointer),
}
