"""The proof: paired, patient-clustered non-inferiority; numpy and scipy only."""
