"""Tests of deploy/: its files agree with the exporter, and they work in the environments that they are made for."""
