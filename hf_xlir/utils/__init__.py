"""Helpers for every folder: files, argument checks, lazy imports, progress bars, folders of arrays, resumed work."""
