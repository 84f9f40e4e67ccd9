"""The service: its process, its states, attaching, collecting, scrapes, restarts."""
