"""Plain values that every room knows: records, VMs, reasons, buckets, drops. It imports no other room."""
