"""The sweeper of grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from bcq_exp.sweep.launcher import CohortLauncher


class GridSweeper(BasicSweeper):
    """Hydra's own, without composing every run only to throw it away: the launcher checks them."""

    def sweep(self, arguments: list[str]) -> Any:
        launcher = self.launcher
        if not (isinstance(launcher, CohortLauncher) and launcher.plan_only):
            return super().sweep(arguments)
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = parser.parse_overrides([*self._parse_config(), *arguments])
        batches = self.split_arguments(given, self.max_batch_size)
        launcher.say_plan([job for batch in batches for job in batch])
        return None

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass
