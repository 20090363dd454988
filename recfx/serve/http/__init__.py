"""The Open Inference Protocol (v2) over HTTP, as an ASGI application."""
