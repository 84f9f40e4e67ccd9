"""Spaces of exit codes: their numbers are in recordings and ledgers."""

from __future__ import annotations

from exporter.model.reason import Space


def test_space_numbers() -> None:
    assert [(space.name, space.value) for space in Space] == [
        ("VMX", 1),
        ("SVM", 2),
        ("ARM64_TRAP", 3),
        ("ARM64_RET", 4),
        ("USERSPACE", 5),
        ("USERSPACE_ERRNO", 6),
    ]
