"""Recordings: the file format, the recorder, and two replays. The room prints nothing."""
