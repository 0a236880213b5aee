"""Weights in files: our own format, and the safe reading of those of others."""
