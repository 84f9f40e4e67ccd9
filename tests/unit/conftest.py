"""For the unit tests: no example of a property test has a time limit, because a slow machine is no fault."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
