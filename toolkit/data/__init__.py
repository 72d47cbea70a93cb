"""Manifests, checks, phantoms and arrays for training."""
