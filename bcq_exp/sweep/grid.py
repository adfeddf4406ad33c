"""The sweeper of grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus

from bcq_exp.config.overrides import with_params
from bcq_exp.internals import basic_sweeper, value_or_error
from bcq_exp.sweep import result_table
from bcq_exp.sweep.launcher import CohortLauncher


class GridSweeper(basic_sweeper()):  # type: ignore[misc]
    """Hydra's sweeper without its validation of every run, which the launcher does."""

    def sweep(self, arguments: list[str]) -> Any:
        launcher = self.launcher
        if not isinstance(launcher, CohortLauncher):
            returned = super().sweep(arguments)
            self._log_results(arguments, returned)
            return returned
        batches = self.split_arguments(self.parsed(arguments), self.max_batch_size)
        if launcher.plan_only:
            launcher.say_plan([job for batch in batches for job in batch])
            return None
        returned = []
        failures: list[Any] = []
        num_done, num_jobs = 0, sum(map(len, batches))
        for batch in batches:
            num_later = num_jobs - num_done - len(batch)
            returned.append(launcher.launch(batch, num_done, later=num_later / len(batch)))
            num_done += len(batch)
            failures = [value_or_error(r) for r in returned[-1] if r.status == JobStatus.FAILED]
            if failures:
                break
        self._log_results(arguments, returned)
        if failures:
            raise failures[0].whole
        return returned

    def _log_results(
        self, arguments: Sequence[str], returned: Sequence[Sequence[JobReturn]]
    ) -> None:
        assert self.config is not None
        swept = [o.get_key_element() for o in self.parsed(arguments) if o.is_sweep_override()]
        jobs = [job for batch in returned for job in batch]
        found = result_table.of_jobs(jobs, [key.lstrip("+") for key in swept])
        result_table.log_results(found, self._folder, self.config.trainer.objective)

    @property
    def _folder(self) -> Path:
        assert self.config is not None
        return Path(self.config.hydra.sweep.dir)

    def parsed(self, arguments: Sequence[str]) -> list[Override]:
        """Parse swept and fixed overrides; arguments replace the configuration's ``params``."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides(with_params(self.params, arguments))

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass
