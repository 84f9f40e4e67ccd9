"""Logs, text that is safe to print, signals: small modules that several rooms need. This room imports no other room."""
