"""The service: its process, its lifecycle, attaching, collecting, scrapes, restarts."""
