"""The protocol of a proof: written, checked, locked, planned."""
