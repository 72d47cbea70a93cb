"""The report of a proof: one page, its drawings and its words."""
