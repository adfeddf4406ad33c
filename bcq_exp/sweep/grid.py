"""The sweeper of grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus

from bcq_exp.sweep.launcher import CohortLauncher


class GridSweeper(BasicSweeper):
    """Hydra's own, without composing every run only to throw it away: our launcher checks them."""

    def sweep(self, arguments: list[str]) -> Any:
        launcher = self.launcher
        if not isinstance(launcher, CohortLauncher):
            return super().sweep(arguments)
        batches = self.split_arguments(self.parsed(arguments), self.max_batch_size)
        if launcher.plan_only:
            launcher.say_plan([job for batch in batches for job in batch])
            return None
        returned: list[Sequence[JobReturn]] = []
        for batch in batches:
            returned.append(launcher.launch(batch, sum(map(len, returned))))
            for result in returned[-1]:
                if result.status == JobStatus.FAILED:  # return_value says it as Hydra does
                    raise result._return_value.whole
        return returned

    def parsed(self, arguments: Sequence[str]) -> list[Override]:
        """What is swept and what stands: the configuration's ``params``, then the arguments."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides([*self._parse_config(), *arguments])

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass
