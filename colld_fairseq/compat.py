"""The only file that knows about version trouble of fairseq, torch, numpy and torchaudio.

`prepare()` runs once when colld_fairseq is imported. It never needs a GPU, a download or `sys.argv`.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import itertools
import logging
import os
import queue
import sys
import time
import types
import weakref
from typing import Any, Dict, Iterator, Optional

from omegaconf import DictConfig, open_dict

_prepared = False

SECONDS_TO_STOP = 30.0  # at exit, for the batches that are being read
INSTALL_FAIRSEQ = "pip install --no-deps ve-fairseq==0.12.3"


def prepare() -> None:
    """Make the installed fairseq usable; raise ImportError with the remedy where it cannot be."""
    global _prepared
    if _prepared:
        return
    hide_broken_torchaudio()
    with logging_left_alone():
        check_fairseq()
    register_safe_globals()
    broadcast_objects_between_workers()
    train_in_bf16_without_tpu()
    accept_former_options()
    copy_checkpoints_atomically()
    check_save_dir_in_one_line()
    train_language_models_with_numpy_2()
    stop_reading_at_exit()
    name_modules_of_nan()
    let_tasks_watch_training()
    open_log_files_once()
    name_weights_that_are_shared()
    start_as_torchrun_says()
    _prepared = True


def hide_broken_torchaudio() -> None:
    """Treat a torchaudio that cannot load as absent.

    Its registry wheel is linked against CUDA and raises OSError beside a CPU torch, which neither fairseq nor
    transformers expects: they catch ImportError only. A None entry in sys.modules makes both see "not installed".
    """
    if "torchaudio" in sys.modules or importlib.util.find_spec("torchaudio") is None:
        return
    try:
        import torchaudio  # noqa: F401
    except Exception:  # noqa: BLE001 - OSError, RuntimeError or ImportError, all mean "not usable"
        for name in [n for n in sys.modules if n == "torchaudio" or n.startswith("torchaudio.")]:
            del sys.modules[name]
        sys.modules["torchaudio"] = None


@contextlib.contextmanager
def logging_left_alone() -> Iterator[None]:
    """Undo what an import does to the root logger: fairseq's wav2vec2_classification sets it to DEBUG where nobody has
    configured it, and every library (matplotlib, numba, urllib3) prints what it is thinking."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def check_fairseq() -> None:
    """Raise ImportError, with the command that mends it, unless a usable fairseq is installed."""
    import hydra

    if tuple(int(part) for part in hydra.__version__.split(".")[:2]) < (1, 3):
        raise ImportError(
            f"hydra-core {hydra.__version__} does not work on Python {sys.version_info[0]}.{sys.version_info[1]}: "
            "pip install 'hydra-core>=1.3.2' 'omegaconf>=2.3'"
        )
    try:
        import fairseq
        import fairseq.data.data_utils_fast  # noqa: F401
    except ImportError as error:
        raise ImportError(f"fairseq is missing or not usable ({error}): {INSTALL_FAIRSEQ}") from error


def register_safe_globals() -> None:
    """Allow the harmless classes of checkpoints under `torch.load(weights_only=True)`.

    fairseq's old options and dictionaries, numbers and arrays of numpy (a best score, the state of a generator) and
    OmegaConf's containers of plain values: what is called when they are read only fills them. With them fairseq's own
    loading works with torch's safe default; nothing else in a pickle is executed.
    """
    import argparse
    import collections
    import pathlib
    import typing

    import numpy
    import omegaconf
    import torch
    from fairseq.data.dictionary import Dictionary
    from omegaconf import base, nodes

    scalars = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 str bytes"
    of_numpy = [numpy.dtype, numpy.ndarray, *(type(numpy.dtype(name)) for name in scalars.split())]
    for value in (numpy.float64(0), numpy.zeros(0)):  # what makes a number and an array when they are read
        maker = value.__reduce__()[0]
        # the module's name since numpy 2, and before
        of_numpy += [(maker, f"numpy.{core}.multiarray.{maker.__name__}") for core in ("_core", "core")]
    values = "AnyNode StringNode IntegerNode FloatNode BooleanNode BytesNode PathNode".split()
    of_omegaconf = [omegaconf.DictConfig, omegaconf.ListConfig, base.Metadata, base.ContainerMetadata]
    of_omegaconf += [getattr(nodes, name) for name in values]
    of_omegaconf += [(typing.Any, "typing.Any"), collections.defaultdict, pathlib.PosixPath]
    of_omegaconf += [dict, list, tuple, str, bytes, int, float, bool]
    torch.serialization.add_safe_globals([argparse.Namespace, Dictionary, *of_numpy, *of_omegaconf])


def broadcast_objects_between_workers() -> None:
    """Let several workers resume a run, with torch's own way of sending objects: fairseq packs the checkpoint that
    worker 0 has read with torch.save, and torch.load refuses the configuration in it."""
    import torch
    from fairseq.distributed import utils

    def broadcast(obj: Any, src_rank: int, group: Any, dist_device: Any) -> Any:
        objects = [obj]
        torch.distributed.broadcast_object_list(objects, src=src_rank, group=group, device=dist_device)
        return objects[0]

    utils._broadcast_object_slow = broadcast


def unwrapped(model: Any) -> Any:
    """The model inside what fairseq wraps it in for several GPUs; torch's DistributedDataParallel has a `join` of its
    own, which hides the model's."""
    from fairseq.distributed import DistributedTimeoutWrapper, LegacyDistributedDataParallel, ModuleProxyWrapper
    from torch.nn.parallel import DistributedDataParallel

    wrappers = (DistributedTimeoutWrapper, ModuleProxyWrapper, DistributedDataParallel, LegacyDistributedDataParallel)
    while isinstance(model, wrappers):
        model = model.module
    return model


def train_in_bf16_without_tpu() -> None:
    """Let `fairseq-train --bf16` use the GPU: fairseq takes the option for a TPU's and then asks for torch_xla."""
    from fairseq import options

    if importlib.util.find_spec("torch_xla") is not None:
        return
    plain_parse = options.parse_args_and_arch

    @functools.wraps(plain_parse)
    def parse(*args: Any, **kwargs: Any) -> Any:
        parsed = plain_parse(*args, **kwargs)
        (parsed[0] if isinstance(parsed, tuple) else parsed).tpu = False
        return parsed

    options.parse_args_and_arch = parse


def accept_former_options() -> None:
    """Rename options of this project that are given under former names, wherever fairseq reads options (`deprecated`).

    That is: command lines, and configurations before fairseq merges the defaults in, of YAML files and of checkpoints;
    of the latter also before --model-overrides, which are by the present names or by former ones.
    """
    from fairseq import checkpoint_utils, models, options, registry, tasks
    from fairseq.dataclass import utils

    from colld_fairseq.deprecated import present_name, rename_arguments, upgrade

    plain_parse, plain_merge = options.parse_args_and_arch, utils.merge_with_parent
    plain_override = utils.overwrite_args_by_name

    def given(arguments: Any) -> Any:
        return rename_arguments(sys.argv[1:] if arguments is None else arguments)

    @functools.wraps(plain_parse)
    def parse(parser: Any, input_args: Any = None, *args: Any, **kwargs: Any) -> Any:
        return plain_parse(parser, given(input_args), *args, **kwargs)

    @functools.wraps(plain_merge)
    def merge(dc: Any, cfg: Any, remove_missing: bool = False) -> Any:
        run = cfg._get_parent()
        if isinstance(run, DictConfig):
            upgrade(run, warn=not remove_missing)
        return plain_merge(dc, cfg, remove_missing)

    @functools.wraps(plain_override)
    def override(cfg: Any, overrides: Any) -> None:
        upgrade(cfg)
        plain_override(cfg, {present_name(name): value for name, value in overrides.items()})

    options.parse_args_and_arch = parse
    checkpoint_utils.overwrite_args_by_name = override
    for module in (utils, models, registry, tasks):
        module.merge_with_parent = merge


def copy_checkpoints_atomically() -> None:
    """Copy checkpoints to checkpoint_last.pt and checkpoint_best.pt atomically: a run killed while fairseq copies them
    in place would leave a truncated file and could not resume."""
    from fairseq.file_io import PathManager

    plain_copy = PathManager.copy

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if PathManager.path_requires_pathmanager(dst_path):
            return plain_copy(src_path, dst_path, overwrite=overwrite)
        partial = f"{dst_path}.partial"
        plain_copy(src_path, partial, overwrite=True)
        os.replace(partial, dst_path)
        return True

    PathManager.copy = staticmethod(copy)


def check_save_dir_in_one_line() -> None:
    """Let fairseq-train end with one line, before it reads anything, where checkpoints cannot be written."""
    from fairseq import checkpoint_utils

    from colld_fairseq.errors import ConfigError
    from colld_fairseq.outputs import check_folder

    def verify(save_dir: str) -> None:
        try:
            check_folder(save_dir, "--save-dir")
        except ConfigError as error:
            raise SystemExit(f"fairseq-train: error: {error}") from error

    checkpoint_utils.verify_checkpoint_directory = verify


def stop_reading_at_exit() -> None:
    """Stop the threads that read batches ahead before Python ends. fairseq leaves them running where training stops
    inside an epoch; one that is in compiled code then (filterbanks) ends the process with SIGABRT, exit code 134."""
    from fairseq.data import iterators

    running: weakref.WeakSet = weakref.WeakSet()

    class Reader(iterators.BackgroundConsumer):
        stopped = False

        def __init__(self, room: Any, source: Any, *args: Any) -> None:
            super().__init__(room, itertools.takewhile(lambda item: not self.stopped, source), *args)
            running.add(self)

        def stop(self, deadline: float) -> None:
            self.stopped = True
            while self.is_alive() and time.monotonic() < deadline:
                with contextlib.suppress(queue.Empty):
                    while True:  # it may be waiting for room
                        self._queue.get_nowait()
                self.join(0.01)

    @atexit.register
    def stop_all() -> None:
        deadline = time.monotonic() + SECONDS_TO_STOP
        for reader in list(running):
            reader.stop(deadline)

    iterators.BackgroundConsumer = Reader


def name_modules_of_nan() -> None:
    """Let fairseq's search for the module that made a NaN take outputs that are dataclasses and named tuples, of which
    its hooks on gradients die. The first cause is the error that ends the run: fairseq's own says no more than
    "gradients are Nan/Inf"."""
    from fairseq import nan_detector

    class NanDetector(nan_detector.NanDetector):
        cause: Optional[str] = None

        def __init__(self, model: Any) -> None:
            self.names = {module: name or type(module).__name__ for name, module in model.named_modules()}
            super().__init__(model)

        def add_hooks(self, module: Any) -> None:
            self.fhooks.append(module.register_forward_hook(functools.partial(self.look, self.names[module])))

        def look(self, name: str, module: Any, given: Any, output: Any) -> None:
            for tensor in tensors_of(output):
                self.note(name, False, tensor)
                if tensor.requires_grad:
                    tensor.register_hook(functools.partial(self.note, name, True))

        def note(self, name: str, backward: bool, tensor: Any) -> None:
            self.cause = self.cause or self._detect(tensor, name, backward)

        def __exit__(self, *error: Any) -> None:
            self.close()
            wrong = [name for name, value in self.named_parameters if not finite(value) or not finite(value.grad)]
            if self.cause or wrong:
                what = self.cause or f"NaN or Inf in {wrong[0]} or its gradient ({len(wrong)} parameters in all)"
                raise FloatingPointError(f"{what}; try a lower --lr, a longer warm-up or --clip-norm") from error[1]

    nan_detector.NanDetector = NanDetector
    if "fairseq.trainer" in sys.modules:
        sys.modules["fairseq.trainer"].NanDetector = NanDetector


def let_tasks_watch_training() -> None:
    """Tell tasks that want to know it what fairseq keeps to itself: `before_epoch(trainer)`; and, once it has looked
    for the module that made a NaN in an update, `explain_nan(trainer, update, batches, error)`, whose answer is the
    error instead."""
    from fairseq.trainer import Trainer

    plain_begin, plain_step = Trainer.begin_epoch, Trainer.train_step

    @functools.wraps(plain_begin)
    def begin_epoch(self: Any, epoch: int) -> None:
        if hasattr(self.task, "before_epoch"):
            self.task.before_epoch(self)
        plain_begin(self, epoch)

    @functools.wraps(plain_step)
    def train_step(self: Any, samples: Any, raise_oom: bool = False) -> Any:
        update = self.get_num_updates() + 1  # an update whose loss is NaN, and its gradient not, counts already
        try:
            return plain_step(self, samples, raise_oom)
        except FloatingPointError as error:
            if not hasattr(self.task, "explain_nan"):
                raise
            raise FloatingPointError(self.task.explain_nan(self, update, samples, error)) from error

    Trainer.begin_epoch, Trainer.train_step = begin_epoch, train_step


def open_log_files_once() -> None:
    """Write each record to --log-file once: fairseq opens the file anew for every epoch and validation, keeps all of
    them open, and writes to each."""
    from fairseq.logging import progress_bar

    plain = progress_bar.progress_bar

    @functools.wraps(plain)
    def one_handler(*args: Any, **kwargs: Any) -> Any:
        before = list(progress_bar.logger.handlers)
        files = {one.baseFilename for one in before if isinstance(one, logging.FileHandler)}
        bar = plain(*args, **kwargs)
        for handler in set(progress_bar.logger.handlers) - set(before):  # that of this call, if it has --log-file
            if handler.baseFilename in files:
                progress_bar.logger.removeHandler(handler)
                handler.close()
        return bar

    progress_bar.progress_bar = one_handler


def name_weights_that_are_shared() -> None:
    """fairseq takes all weights that a module lacks (biases, say) for one, and tells a line for each of them."""
    from fairseq import trainer

    plain = trainer._catalog_shared_params

    @functools.wraps(plain)
    def catalog(module: Any, memo: Any = None, prefix: str = "") -> Any:
        memo = {} if memo is None else memo
        plain(module, memo, prefix)  # as if it were called by itself: it fills `memo`
        memo.pop(None, None)
        return None if prefix else [names for names in memo.values() if len(names) > 1]

    trainer._catalog_shared_params = catalog


def start_as_torchrun_says() -> None:
    """Let `torchrun fairseq-train` be one run: fairseq takes processes that see one GPU each for as many runs, and the
    GPU's index from the rank, which needs GPUs and as many on every machine."""
    import torch
    from fairseq.distributed import utils

    plain_infer = utils.infer_init_method

    @functools.wraps(plain_infer)
    def infer(cfg: Any, force_distributed: bool = False) -> None:
        given = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")}
        local = os.environ.get("LOCAL_RANK")
        if cfg.distributed_init_method or None in given.values() or local is None or int(given["WORLD_SIZE"]) == 1:
            plain_infer(cfg, force_distributed)
            return
        cfg.distributed_init_method, cfg.distributed_no_spawn = "env://", True
        cfg.distributed_world_size, cfg.distributed_rank = int(given["WORLD_SIZE"]), int(given["RANK"])
        cfg.device_id = int(local)
        if torch.cuda.is_available():
            torch.cuda.set_device(cfg.device_id)
        elif cfg.distributed_backend == "nccl":  # fairseq's default, which needs GPUs
            cfg.distributed_backend = "gloo"

    utils.infer_init_method = infer


def prepared(trainer: Any, sample: Dict) -> Dict:
    """A batch on the trainer's device and in its precision."""
    return trainer._prepare_sample(sample)[0]


def finite(tensor: Any) -> bool:
    return tensor is None or bool(tensor.isfinite().all())


def tensors_of(output: Any) -> Iterator[Any]:
    """The floating-point tensors in what a module returns."""
    import torch

    if torch.is_tensor(output):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from itertools.chain.from_iterable(map(tensors_of, output.values()))
    elif isinstance(output, (list, tuple)):
        yield from itertools.chain.from_iterable(map(tensors_of, output))
    elif dataclasses.is_dataclass(output):
        yield from tensors_of(vars(output))


def given_on_command_line(*names: str) -> bool:
    """Whether one of the options was given, whatever its value: `--max-len-b 200`, `generation.max_len_b=200`."""
    options = [f"--{name.replace('_', '-')}" for name in names]
    given = [argument.partition("=")[0].rpartition(".")[2] for argument in sys.argv[1:]]
    return any(argument in names or argument in options for argument in given)


def check_precision(cfg: Any) -> None:
    """ConfigError where a task's configuration belongs to a run that asks for --fp16 or --amp and has no GPU."""
    import torch

    from colld_fairseq.errors import ConfigError

    common = (run_of(cfg) or {}).get("common")
    if common is None or (torch.cuda.is_available() and not common.get("cpu")):
        return
    for option in ("fp16", "memory_efficient_fp16", "amp"):
        if common.get(option):
            raise ConfigError(
                f"--{option.replace('_', '-')} needs a GPU, and "
                f"{'--cpu takes none' if common.get('cpu') else 'there is none here'}: leave it out"
            )


def train_language_models_with_numpy_2() -> None:
    """Give fairseq's TokenBlockDataset, which asks for `np.compat.long`, a numpy that has it; numpy 2 has not."""
    import numpy
    from fairseq.data import token_block_dataset

    class Numpy(types.ModuleType):
        compat = types.SimpleNamespace(long=int)

        def __getattr__(self, name: str) -> Any:
            return getattr(numpy, name)

    token_block_dataset.np = Numpy("numpy")


# Private names of fairseq's decoders: the tensors that they keep between the steps of a language model, each with its
# dimension of the rows and the one that is a token longer after every step (None: the last token alone is kept).
# Padding masks and the input feed have no part in these steps.
STEP_STATE = {"prev_key": (0, 2), "prev_value": (0, 2), "prev_hiddens": (1, None), "prev_cells": (1, None)}


def empty_step_state() -> Any:
    """An incremental state to be filled, module by module, with the tensors of STEP_STATE."""
    return collections.defaultdict(lambda: {"input_feed": None})  # which LSTMs look up


def decoder_cache() -> Any:
    """transformers' memory of a decoder between its steps, empty."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def cache_keyword(decoder: Any) -> str:
    """What a decoder of transformers calls that memory: `past_key_values`, and `cache` in newer versions."""
    return "cache" if "cache" in inspect.signature(type(decoder).forward).parameters else "past_key_values"


def absolute_path(path: str) -> str:
    """`path` made absolute from the folder the user started in, which hydra knows: fairseq-hydra-train changes to
    outputs/<date>/<time> before anything is read."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import get_original_cwd

    path = os.path.expanduser(path)
    if os.path.isabs(path) or not HydraConfig.initialized():
        return os.path.abspath(path)
    return os.path.abspath(os.path.join(get_original_cwd(), path))


def run_of(cfg: Any) -> Any:
    """The settings of the whole run, or checkpoint, of which `cfg` is the model's, task's or criterion's part (all that
    fairseq hands them); None for a part that stands alone."""
    return cfg._get_parent() if isinstance(cfg, DictConfig) else None


def evaluated_checkpoint(cfg: Any) -> Optional[str]:
    """The (first) checkpoint of --path, by a part of the settings of fairseq-generate, -validate or -interactive."""
    from fairseq.utils import split_paths

    evaluation = (run_of(cfg) or {}).get("common_eval") or {}
    return split_paths(evaluation["path"])[0] if evaluation.get("path") else None


def restored_checkpoint(run: Any) -> Optional[str]:
    """The checkpoint that fairseq-train will start from, if it is there: checkpoint_utils.load_checkpoint finds it
    only after model and validation data have been made."""
    cfg = run.get("checkpoint") if run is not None else None
    if cfg is None:
        return None
    name = "checkpoint_last.pt"
    last = os.path.join(cfg.save_dir, name) if cfg.restore_file == name else cfg.restore_file
    candidates = (last, cfg.get("continue_once"), cfg.finetune_from_model)
    return next((path for path in candidates if path and os.path.isfile(path)), None)


def make_path_absolute(cfg: Any, name: str) -> None:
    """Make the path `cfg.<name>` absolute, in a task's configuration and in the run's that it is a copy of: fairseq
    looks into that one's `data` folder itself before it trains."""
    path = absolute_path(getattr(cfg, name))
    run = run_of(cfg)
    for node in (cfg, run.get("task") if run is not None else None):
        if isinstance(node, DictConfig):
            with open_dict(node):
                node[name] = path
        elif node is not None:
            setattr(node, name, path)


def version_of(tensor: Any) -> int:
    """How often torch has changed a tensor in place; 0 for those of inference mode, which do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def estimator_state(estimator: Any) -> Dict[str, Any]:
    """All that a scikit-learn estimator has learned, for `partial_fit` to go on: its public attributes leave out what
    MiniBatchKMeans counts between batches."""
    return dict(estimator.__getstate__())


def restore_estimator(estimator: Any, state: Dict[str, Any]) -> None:
    """Bring an estimator of the same class and version back to an `estimator_state`."""
    estimator.__setstate__({**estimator.__getstate__(), **state})
