"""Finds the names of exit reasons, the VMs of processes, and the vCPUs of threads."""
