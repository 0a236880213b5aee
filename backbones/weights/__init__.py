"""Weights in files: our own format, and (later) those of others."""
