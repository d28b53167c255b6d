"""From the data of a document to a validated spec, or to errors that point into the file."""
