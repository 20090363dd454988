"""Recipes for the tables of the papers, and the runs behind `recfx bench`."""

from recfx.learn.recipes.cells import FULL, WIDE, Cell, cells
from recfx.learn.recipes.hqgnn import Options, run_hqgnn
from recfx.learn.recipes.recipe import Recipe, load_bench_data, recipe_of

__all__ = ["FULL", "WIDE", "Cell", "Options", "Recipe", "cells", "load_bench_data", "recipe_of", "run_hqgnn"]
