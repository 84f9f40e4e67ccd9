"""Readings (one collection with names), and their differences, filtered and summed."""
