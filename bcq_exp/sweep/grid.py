"""The sweeper of grids."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Hydra's own, without composing every run only to throw it away: the launcher checks them."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass
