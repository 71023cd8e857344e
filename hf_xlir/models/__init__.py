"""Configurations, models and processors of the three families."""
