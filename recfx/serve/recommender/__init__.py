"""Retrieval and ranking in one request: an index finds candidates, a ranking model scores them, and items change while requests run."""
