"""Benchmark cases, one file per family: a module here defines `CASES`, a sequence of `benchmarks.case.Case`."""
