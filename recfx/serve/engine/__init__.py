"""The engine: a compiled model behind a bounded queue, with worker threads that run batches of requests."""
