"""Readings: one collection with names. Their differences, filtered and summed."""
