"""Logs, text that is safe to print, signals: small things that several rooms need. It imports no other room."""
