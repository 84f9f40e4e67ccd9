"""The table of wrong changes fits the code and the tests of today."""

from __future__ import annotations

import pytest

from tests.mutants.change import Change, changed
from tests.mutants.table import CHANGES
from tests.support.paths import ROOT


@pytest.mark.parametrize("change", CHANGES, ids=[change.name for change in CHANGES])
def test_each_change_fits_its_file_and_names_its_tests(change: Change) -> None:
    text = (ROOT / change.file).read_text()
    assert changed(text, change) != text
    assert bool(change.tests) != bool(change.equivalent), "either tests or a proof"
    for test in change.tests:
        file, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (ROOT / file).read_text(), test


def test_each_name_and_each_change_is_there_once() -> None:
    assert len({change.name for change in CHANGES}) == len(CHANGES)
    assert len({(change.file, change.old, change.new) for change in CHANGES}) == len(CHANGES)
