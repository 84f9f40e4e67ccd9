"""The service: its process and states, and the code that attaches, collects, answers scrapes and restarts."""
