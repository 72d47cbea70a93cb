"""Shipped recipes: YAML only, no code."""
