"""The Inductor backend: regions compiled ahead of time by torch's compiler. Needs a C++ compiler."""

from recfx.targets.inductor.backend import InductorBackend

__all__ = ["InductorBackend"]
