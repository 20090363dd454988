"""Serving of compiled models: policies that follow the load, and a simulator of any number of machines that runs them."""
