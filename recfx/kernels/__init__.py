"""The native library: how it is found and called, its structures, and its C++ sources."""
