"""Experiments behind figures of the papers, with the recipes that `recfx bench` installs (`recfx.learn.recipes`)."""
