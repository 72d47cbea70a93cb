"""The stages that a recipe may name, a file for each room of the road; the table is in `table`."""
