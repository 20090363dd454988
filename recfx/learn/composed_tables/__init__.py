"""Tables that are composed of smaller ones, for tables of millions of rows; they are trained, or fine-tuned, in this form."""

from recfx.learn.composed_tables.compose import compose_tables
from recfx.learn.composed_tables.quotient_remainder import QuotientRemainderTable
from recfx.learn.composed_tables.tensor_train import TensorTrainTable

__all__ = ["QuotientRemainderTable", "TensorTrainTable", "compose_tables"]
