"""The commands of `foveola`, a file for each subject; the table is in `table`."""
