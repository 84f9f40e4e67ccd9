"""From records to metric families, and from families to what a scraper reads."""
