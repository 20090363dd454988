"""Passes that compute only the positions or rows that are read, and tabulate towers."""
