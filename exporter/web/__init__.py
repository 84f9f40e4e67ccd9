"""The HTTP server: sockets, TLS, users, limits. It is given bodies to send, and knows no metric and no page."""
