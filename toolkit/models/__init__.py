"""Backbones and heads: full ones for teachers, light ones for the edge."""
