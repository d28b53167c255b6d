"""Formats that several readers share: archives, compressed streams, markup, licence texts."""
