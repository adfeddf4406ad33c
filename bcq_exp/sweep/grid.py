"""The sweeper of grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus

from bcq_exp.sweep.launcher import CohortLauncher
from bcq_exp.sweep.state import name_report


class GridSweeper(BasicSweeper):
    """Hydra's own, without composing every run only to throw it away: our launcher checks them."""

    def sweep(self, arguments: list[str]) -> Any:
        launcher = self.launcher
        if not isinstance(launcher, CohortLauncher):
            results = super().sweep(arguments)
            name_report(self._folder)
            return results
        batches = self.split_arguments(self.parsed(arguments), self.max_batch_size)
        if launcher.plan_only:
            launcher.say_plan([job for batch in batches for job in batch])
            return None
        returned: list[Sequence[JobReturn]] = []
        failures: list[Any] = []
        for batch in batches:
            returned.append(launcher.launch(batch, sum(map(len, returned))))
            # return_value says it as Hydra does
            failures = [r._return_value for r in returned[-1] if r.status == JobStatus.FAILED]
            if failures:
                break
        name_report(self._folder)
        if failures:
            raise failures[0].whole
        return returned

    @property
    def _folder(self) -> Path:
        assert self.config is not None
        return Path(self.config.hydra.sweep.dir)

    def parsed(self, arguments: Sequence[str]) -> list[Override]:
        """What is swept and what stands: the configuration's ``params``, then the arguments."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides([*self._parse_config(), *arguments])

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass
