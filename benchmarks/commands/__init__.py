"""The commands of `python -m benchmarks`, in groups; each file adds its own to the parser."""
