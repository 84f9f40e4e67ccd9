"""Names: exit codes to reasons, processes to VMs, threads to vCPUs."""
