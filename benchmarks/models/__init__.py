"""Models with parts that are not recommendation layers, which other backends may run faster than the native kernels."""
