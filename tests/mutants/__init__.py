"""Mutation testing: runs the mirror tests against copies of the sources, each with one small mistake.

python -m tests.mutants --sample 40 --seed 7        a random sample of all mutants
python -m tests.mutants passes/cross/fuse_cross.py         every mutant of one file
"""
