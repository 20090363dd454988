"""The version of recfx, as saved models and indices name it."""

VERSION = "0.1.0"
