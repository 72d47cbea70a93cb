"""Official layouts of public data sets, one file each; see `read.py` for the table."""
