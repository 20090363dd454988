"""Servers under load: recfx serve beside plain web applications around the same models."""
