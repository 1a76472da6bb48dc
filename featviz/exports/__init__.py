"""Exemplars in the files that other tools read: one format a module."""
