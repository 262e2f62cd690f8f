"""The quickstart's own configuration, which the benchmarks of training take their settings from."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def quickstart() -> Any:
    """The quickstart's config, composed from `conf/`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from t2l.config import config_folder, register

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_object(compose("quickstart"))
    GlobalHydra.instance().clear()
    return config
