"""Passes that compute once per request what does not depend on the candidate."""
