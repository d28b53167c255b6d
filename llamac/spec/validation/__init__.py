"""Validation of a document's data, with errors that point into the file."""
