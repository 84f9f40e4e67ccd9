"""The maps of a loaded program as they are at one moment, and readers of such images."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

from exporter.collect.collector import Collector
from exporter.kernel.program import LeafLayout, Loaded
from exporter.model.records import Snapshot
from tests.support.leaves import NO_MAP

ARRAYS = ("slots", "cells", "counters", "usage")


class Word(NamedTuple):
    """An aligned 64-bit word of a map: its map, and its number in the map."""

    array: str
    number: int


Image = Mapping[str, bytes]
"""The content of the maps, by the name of the map."""


def take_image(loaded: Loaded) -> Image:
    """Copy the program's maps."""
    images = {}
    for name in ARRAYS:
        layout = loaded.layouts[name]
        with mmap.mmap(loaded.maps[name], _mapped_bytes(layout), mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            images[name] = memory[:]
    return images


def words(image: Image) -> dict[Word, bytes]:
    """Return the content of an image by word."""
    return {
        Word(name, number): content[8 * number : 8 * number + 8]
        for name, content in image.items()
        for number in range(len(content) // 8)
    }


class FrozenReader:
    """A collector that reads images in place of the maps of a running program."""

    def __init__(self, layouts: Mapping[str, LeafLayout], now: int) -> None:
        self._stack = ExitStack()
        self._memory: dict[str, mmap.mmap] = {}
        maps = dict.fromkeys(("free_slots", "free_cells", "shares", "process_drops"), NO_MAP)
        for name in ARRAYS:
            fd = os.memfd_create(name)
            self._stack.callback(os.close, fd)
            os.truncate(fd, _mapped_bytes(layouts[name]))
            self._memory[name] = self._stack.enter_context(mmap.mmap(fd, 0))
            maps[name] = fd
        self._collector = Collector(Loaded(maps, layouts, {}, {}), lambda: now, 10**18)
        self._stack.callback(self._collector.close)

    def collect(self, image: Image) -> Snapshot:
        """Collect while the maps have this content."""
        for name, content in image.items():
            self._memory[name][:] = content
        return self._collector.collect()

    def close(self) -> None:
        """Free the maps."""
        self._stack.close()


def _mapped_bytes(layout: LeafLayout) -> int:
    return (layout.size * layout.entries + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
