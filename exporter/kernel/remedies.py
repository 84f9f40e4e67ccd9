"""Remedies that both `check` and a LoadError can name."""

from __future__ import annotations

MOUNT_TRACEFS = "mount -t tracefs nodev /sys/kernel/tracing"
UNLOCK = "boot with lockdown=integrity, or without lockdown="
READ_TRACEFS = "run as root, or with CAP_DAC_READ_SEARCH (tracefs is mounted for root alone)"
NEWER_KERNEL = "boot a newer kernel"
NO_NAMES = "VMs have no names: the pids of this PID namespace are not the host's"
"""The sentence for another PID namespace; HOST_PIDS is its remedy."""
HOST_PIDS = (
    "run in the host's PID namespace: docker --pid=host, or hostPID: true in a Kubernetes pod. With kind, OrbStack, "
    "Docker Desktop or WSL 2, this reaches only the namespace of the node or the distribution, which is itself a "
    "container: there, run the exporter on the Linux machine that has the containers"
)
BUILTIN_HEADERS = "set kernel_headers: builtin"
