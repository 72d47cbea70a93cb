"""Data, teachers, compression, proof, recipes and the command line."""
