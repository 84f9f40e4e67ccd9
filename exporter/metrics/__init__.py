"""Makes metric families of records, and pages in the wire formats of families."""
