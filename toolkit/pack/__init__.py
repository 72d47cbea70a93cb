"""The evidence pack: what a proof leaves for a file."""
