"""Layers, and the receptive fields of their positions."""
