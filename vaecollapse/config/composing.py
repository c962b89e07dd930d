"""The configuration that overrides give."""

from collections.abc import Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..refusal import Refused
from .checking import check
from .effects import without_effect
from .schema import register
from .sources import folder, folders


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration these overrides give, checked as a command would be; Refused where it is no valid command.

    Works inside a running job (whose --config-dir it then sees) and outside.
    """
    register()
    if not GlobalHydra.instance().is_initialized():
        with hydra.initialize_config_dir(str(folder()), job_name="train", version_base="1.3"):
            return compose(overrides)
    try:
        cfg = hydra.compose("train", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(f"{' '.join(overrides)} is no valid command: {str(error).splitlines()[0]}") from error
    choices, sources = dict(cfg.hydra.runtime.choices), folders(cfg.hydra.runtime.config_sources)
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    check(cfg)
    if dead := without_effect(cfg, overrides, choices, sources):
        raise Refused(dead[0])
    return cfg
