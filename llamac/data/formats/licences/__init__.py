"""Licences: DEP-5 files, licence texts, and the licence of a source file."""
