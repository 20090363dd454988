"""Passes that compute values that do not depend on the candidate once per request."""
