"""DICOM out: what was found, as objects that an archive and a workstation read."""
