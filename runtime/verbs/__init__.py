"""The verbs of a device: what each takes and does, for `python -m foveola.runtime` and for `foveola`."""
