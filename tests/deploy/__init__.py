"""What deploy/ ships: that it says what the exporter serves, and that it works where it is to be used."""
