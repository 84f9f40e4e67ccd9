"""Recordings: the file format, the recorder, the replay and the stand-ins for VMs."""
