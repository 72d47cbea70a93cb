"""Watching without spying: histograms of days, drift, and a log that shows tampering."""
