"""The HTTP server: sockets, TLS, users, limits. It sends what other rooms give it, and knows no metric and no page."""
