"""Losses, arguments, trainer and hard-negative mining."""
