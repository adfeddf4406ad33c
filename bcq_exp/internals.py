"""All private interfaces of other packages that bcq_exp uses, under its own names.

Tested with hydra-core 1.3.2 and 1.3.8, omegaconf 2.3.0 and 2.3.1, wandb 0.31.0,
wandb-workspaces 0.4.13.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from operator import attrgetter, methodcaller
from typing import Any
from unittest.mock import patch

from hydra._internal import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_loader_impl import get_overrides_dirname as override_dirname
from hydra._internal.utils import _run_hydra as run_hydra  # hydra.main without its parsing
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.utils import _save_config as save_config

__all__ = ["override_dirname", "run_hydra", "save_config"]

set_values = ConfigLoaderImpl._apply_overrides_to_config  # sets values as Hydra does
repository = attrgetter("repository")  # Hydra's loader: the existing groups
value_or_error = attrgetter("_return_value")  # a job's result; the public property raises the error
content = methodcaller("_value")  # the content of a node of OmegaConf, unresolved


def hydra_parser() -> ArgumentParser:
    """Hydra's parser of the command line."""
    # Python 3.14 refuses a help text that is not a string, such as one of Hydra's
    with patch.object(ArgumentParser, "_check_help", lambda *_: None, create=True):
        return get_args_parser()


utils.get_args_parser = hydra_parser  # Hydra's completion makes one, too

# Hydra copies the store with all schemas for every list of overrides that it parses, and often
# for --help. What it loads from the store is a copy in any case.
ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]


def basic_sweeper() -> type:
    """Hydra's grid sweeper; call it after plugins are loaded, which redefines the class."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper


def has_wandb_key() -> bool:
    """Whether W&B has a key for its server; a run would prompt for a missing one.

    Raises:
        wandb.errors.AuthenticationError: if the key is malformed.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    key = wbauth.authenticate_session(
        host=wandb.setup().settings.base_url, source="", prompt=False, update_session=False
    )
    return key is not None


def report_no_imports() -> None:
    """Keep W&B from reporting what is imported during a run.

    It does so in the importing thread, where a dead or hanging W&B process would fail or stop the
    import.
    """
    from wandb.sdk import wandb_run

    wandb_run.register_post_import_hook = lambda *_: None


def workspace_values(workspace: Any) -> dict[str, Any]:
    """Return a workspace of wandb-workspaces as the plain values that W&B's server receives."""
    return json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
