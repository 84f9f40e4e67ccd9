"""Recordings and ledgers store the numbers of the exit code spaces. Therefore no number may change."""

from __future__ import annotations

from exporter.model.reason import Space


def test_each_space_keeps_its_number() -> None:
    assert [space.value for space in Space] == list(range(1, len(Space) + 1))
    assert [(space.name, space.value) for space in Space][:6] == [
        ("VMX", 1),
        ("SVM", 2),
        ("ARM64_TRAP", 3),
        ("ARM64_RET", 4),
        ("USERSPACE", 5),
        ("USERSPACE_ERRNO", 6),
    ]
