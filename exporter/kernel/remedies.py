"""Remedies that both `check` and a LoadError can name."""

from __future__ import annotations

MOUNT_TRACEFS = "mount -t tracefs nodev /sys/kernel/tracing"
READ_TRACEFS = "run as root, or with CAP_DAC_READ_SEARCH (tracefs is mounted for root alone)"
NEWER_KERNEL = "boot a newer kernel"
BUILTIN_HEADERS = "set kernel_headers: builtin"
