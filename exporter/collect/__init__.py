"""Reads the bytes of the BPF maps, and makes records of them."""
