"""Recorded events of real guests, driven through the real program: the demo, and half of the kernel tests."""
