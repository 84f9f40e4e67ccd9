"""Plain values that every room knows: records, VMs, reasons, buckets, drops. This room imports no other room."""
