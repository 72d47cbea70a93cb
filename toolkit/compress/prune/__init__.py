"""Structured pruning: whole channels are taken away, as many as a target on the exported graph asks for."""
