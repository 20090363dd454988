"""The native library: its C++ sources, its structures, and the functions that find and call it."""
