"""SePL: a teacher whose own first answers guide its harder ones (Ko et al., MICCAI 2025)."""
