"""Placement: which backend runs which operators, chosen by predicted costs."""
