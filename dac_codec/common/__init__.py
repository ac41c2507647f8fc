"""Errors, files, byte streams, threads, progress bars, manifests and spectrograms, for every other package."""
