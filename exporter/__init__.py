"""Prometheus exporter for KVM exits. docs/architecture.md describes the parts of this package."""

__version__ = "0.1.0"
