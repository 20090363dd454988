"""What things cost: the timing engine and, later, the cost model and placement."""
