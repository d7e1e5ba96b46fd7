"""The inner loops of sampling sounds, one sample after another: compiled, since each takes a few thousand small steps.

numba compiles them where it is installed; elsewhere numpy goes through the same layers, slower and rounded otherwise.
A stream's samples depend on its own numbers only, to the bit, however many are written together.
"""
