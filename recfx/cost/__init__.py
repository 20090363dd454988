"""Costs: the timing engine, the arithmetic of a program, and the peak rates of a machine."""
