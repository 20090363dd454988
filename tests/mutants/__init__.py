"""Mutation testing: the sources with one small mistake each, and whether the mirror tests notice.

python -m tests.mutants --sample 40 --seed 7        a random sample of all mutants
python -m tests.mutants passes/cross/fuse_cross.py         every mutant of one file
"""
