"""Helpers that every folder needs: whole files, argument checks, lazy imports, progress bars."""
