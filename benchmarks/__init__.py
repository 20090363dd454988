"""Side-by-side benchmarks: `python -m benchmarks run | list | table`.

Cases (`benchmarks/cases`) and peers (`benchmarks/peers`) are plug-ins: every module there that defines `CASES` or
`PEERS` is found.
"""
