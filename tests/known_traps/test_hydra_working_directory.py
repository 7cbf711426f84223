"""fairseq-hydra-train changes the working directory before anything is read: relative paths would lead nowhere.

The run itself is in end_to_end/test_distillation.py; here is what makes the paths absolute.
"""

import os

from omegaconf import OmegaConf

from colld_fairseq import compat


def test_paths_start_where_the_user_started(tmp_path, monkeypatch):
    import hydra.core.hydra_config
    import hydra.utils

    monkeypatch.chdir(tmp_path)
    assert compat.absolute_path("corpus") == str(tmp_path / "corpus")
    monkeypatch.setattr(hydra.core.hydra_config.HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(hydra.utils, "get_original_cwd", lambda: "/where/one/started")
    assert compat.absolute_path("corpus") == "/where/one/started/corpus"
    assert compat.absolute_path("/absolute") == "/absolute"
    assert compat.absolute_path("~/x") == os.path.expanduser("~/x")


def test_the_run_sees_the_absolute_path_too(tmp_path, monkeypatch):
    """fairseq lists the data folder itself, from the configuration of the run and not from the task's copy."""
    monkeypatch.chdir(tmp_path)
    run = OmegaConf.create({"task": {"data": "corpus"}})
    copy = OmegaConf.merge({}, run.task)
    copy.__dict__["_parent"] = run
    compat.make_path_absolute(copy, "data")
    assert copy.data == run.task.data == str(tmp_path / "corpus")
