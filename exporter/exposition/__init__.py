"""Metric families to bytes on the wire."""
