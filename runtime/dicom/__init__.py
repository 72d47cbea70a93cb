"""DICOM in: a data set's pixels as the picture that a reader would see."""
