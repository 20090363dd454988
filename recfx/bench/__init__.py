"""The tables of the papers, measured here: what `recfx bench` runs."""

from recfx.bench.cells import FULL, WIDE, Cell, cells
from recfx.bench.hqgnn import Options, run_hqgnn
from recfx.bench.recipes import Recipe, load_bench_data, recipe_of

__all__ = ["FULL", "WIDE", "Cell", "Options", "Recipe", "cells", "load_bench_data", "recipe_of", "run_hqgnn"]
