"""The service: studies in by DICOM, folder or HTTP, answers out, nothing lost."""
