"""The VMMs that the exporter knows: one file for each, and the registry that lists them."""
