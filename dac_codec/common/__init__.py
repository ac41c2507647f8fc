"""Errors, files, byte streams, threads and spectra: what every floor above may use."""
