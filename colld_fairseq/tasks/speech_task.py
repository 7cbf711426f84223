"""What both tasks share: options about audio, checked manifests, batches that leave no utterance out."""

import functools
import logging
import math
import os
from dataclasses import dataclass, field, replace
from typing import Any, Callable, List, Optional

import numpy as np
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, FairseqTask
from omegaconf import II, MISSING

from colld_fairseq import compat
from colld_fairseq.checkpoints.input_options import InputOptions
from colld_fairseq.checkpoints.names_colld import SavedModel, encoder_in, read_model
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.data.datasets import DatasetOptions
from colld_fairseq.data.fairseq_config import CONFIG_YAML, FairseqDataConfig, read_data_config
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import JoinedManifest, join_manifests, read_manifest, require_waveforms
from colld_fairseq.data.perturbation import Perturbation
from colld_fairseq.data.sampling import sampling_indices
from colld_fairseq.data.stored_fbank import STORED_VARIANT, stored_shape
from colld_fairseq.durations import duration_text
from colld_fairseq.errors import AudioError, ColldError, ConfigError, ManifestError
from colld_fairseq.models.encoder_options import check_shape, record, record_encoder
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.named_values import value_of_each
from colld_fairseq.numbers import (
    COUNT_OR_NONE,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    check_numbers,
    option,
)
from colld_fairseq.tasks.dry_run import DryRun
from colld_fairseq.tasks.failing_batch import explain_nan

logger = logging.getLogger(__name__)


@dataclass
class SpeechTaskConfig(FairseqDataclass):
    data: str = option(
        MISSING, "folder of the manifests; the split NAME is read from NAME.tsv there, several as NAME,NAME"
    )
    config_yaml: str = option(
        CONFIG_YAML,
        "file in the data folder, where fairseq's speech-to-text scripts made it: its audio_root and transforms (what"
        " --audio-root, --cmvn and --specaug-* say goes first) and, without --vocab, its vocabulary are taken",
    )
    audio_root: str = option("", "folder that audio paths are relative to (default: the manifest's own root)")
    cmvn: Optional[str] = option(
        None,
        "normalization of a new student's filterbanks: utterance (default), none, or an .npz file of corpus"
        " statistics, which the checkpoint then holds itself; any other student has that of its checkpoint",
    )
    fbank: Optional[str] = option(
        None,
        "filterbanks of a new student: kaldi, or icefall for runtimes that compute those (sherpa-onnx by default);"
        " default: that of the --cmvn statistics, else kaldi; any other student has that of its checkpoint",
    )
    normalize_waveform: Optional[bool] = option(
        None,
        "zero mean and unit variance of each utterance, for a new student with a waveform front-end; any other has"
        " the input of its checkpoint, or of --init-from",
    )
    min_seconds: float = option(0.1, "shorter utterances are left out of training (seconds; our choice)", NOT_NEGATIVE)
    max_seconds: float = option(
        30.0, "longer utterances: cropped in distillation, left out of fine-tuning (seconds; our choice)", POSITIVE
    )
    max_bad_audio: float = option(
        0.001, "share of utterances that may be unreadable before training stops (our choice)", SHARE
    )
    sampling_alpha: float = option(
        1.0, "temperature of group sampling: p ~ share^alpha; 1 = every row once, 0 = uniform", SHARE
    )
    sampling_by: ChoiceEnum(["language", "corpus"]) = option(
        "language", "what sampling_alpha balances: src_lang of the rows, or manifests"
    )
    sampling_weights: str = option(
        "",
        "NAME=WEIGHT,NAME=WEIGHT: shares of an epoch that rows of each training manifest get, in proportion, instead"
        " of sampling_alpha",
    )
    specaug_freq_masks: int = option(0, "SpecAugment: frequency masks per utterance (filterbank input)", COUNT_OR_NONE)
    specaug_freq_width: int = option(27, "SpecAugment F: widest frequency mask (bins)", COUNT_OR_NONE)
    specaug_time_masks: int = option(0, "SpecAugment: time masks per utterance (filterbank input)", COUNT_OR_NONE)
    specaug_time_width: int = option(40, "SpecAugment T: longest time mask (10 ms frames)", COUNT_OR_NONE)
    specaug_time_share: float = option(0.2, "SpecAugment p: longest time mask as share of the utterance", SHARE)
    perturb_speed: float = option(
        0.0,
        "training: speed and pitch of each utterance go up or down by up to this share, anew in every epoch; 0.1, say",
        PROBABILITY,
    )
    perturb_volume_db: float = option(
        0.0, "training: volume of each utterance goes up or down by up to so many dB", NOT_NEGATIVE
    )
    perturb_noise_db: Optional[float] = option(
        None,
        "training: every second utterance gets noise, with a signal-to-noise ratio of this many dB to 30 dB more",
        FINITE,
    )
    keep_in_memory: bool = option(
        False, "read and transform each utterance once and keep it in memory (filterbanks: 32 kB per second)"
    )
    dry_run: ChoiceEnum(["none", "worst", "largest"]) = option(
        "none",
        "before training: worst = the batches that need most memory, forward and backward, so that it ends at once"
        " where they do not fit; largest = find the largest --max-tokens that fits, say so and end (one process)",
    )
    dry_run_gb: Optional[float] = option(
        None,
        "memory for --dry-run, in GB: of the GPU, or of this process on a CPU; default: what there is",
        POSITIVE,
    )
    seed: int = field(default=II("common.seed"), metadata={"number": COUNT_OR_NONE})


class SpeechTask(FairseqTask):
    """Manifests to datasets. Subclasses implement `make_dataset(split, rows, student_input, options)`."""

    cfg: SpeechTaskConfig

    def __init__(self, cfg: SpeechTaskConfig) -> None:
        if cfg.data:  # imported models name no folder
            compat.make_path_absolute(cfg, "data")
        super().__init__(cfg)
        check_numbers(cfg, TASK_DATACLASS_REGISTRY)
        if cfg.dry_run_gb is not None and cfg.dry_run == "none":
            raise ConfigError("--dry-run-gb says nothing without --dry-run: give worst or largest, or leave it out")
        self.encoder: Optional[EncoderConfig] = None
        """Of the student, its input included: what data are made for. Set by build_model alone."""
        self.restored = ""
        """The checkpoint of which weights are taken where training goes on. Set by build_model alone."""
        self.begun = False  # the first epoch of this start of a run
        self.told: List[Any] = []
        """Datasets that `tell_left_out` has looked at."""
        self.normalization_given = bool(cfg.cmvn) or cfg.normalize_waveform is not None

    @classmethod
    def setup_task(cls, cfg: SpeechTaskConfig, from_checkpoint: bool = False, **unused) -> "SpeechTask":
        """from_checkpoint: fairseq gives it where the configuration is that of a training run, not of this one."""
        if not from_checkpoint:
            compat.check_precision(cfg)
        return cls(cfg)

    @functools.cached_property
    def data_config(self) -> FairseqDataConfig:
        """What fairseq's config.yaml says of the data, if it does."""
        return read_data_config(self.cfg.data, self.cfg.config_yaml)

    @property
    def input_options(self) -> InputOptions:
        return InputOptions(self.cfg.cmvn or None, self.cfg.normalize_waveform, self.cfg.fbank)

    def build_model(self, cfg, from_checkpoint: bool = False):
        """The model of a new training, or of a checkpoint; settles what its encoder takes in. A checkpoint says it: the
        one that is decoded, that training goes on from, or of --student or --init-from; of a new student the options
        say it, else fairseq's config.yaml of the data, and its checkpoints from then on."""
        check_numbers(cfg, MODEL_DATACLASS_REGISTRY)
        run, given = compat.run_of(cfg), self.input_options
        restored = None if from_checkpoint else compat.restored_checkpoint(run)
        file, known = restored or self.file_of_model(cfg), None
        if restored:
            saved = read_model(restored, given)
            known, self.restored = saved.config.input, restored
            self.go_on_from(saved, cfg, file)
        elif from_checkpoint and run is not None:
            encoder_in(run, file, given)
        model = super().build_model(cfg, from_checkpoint)
        config = model.encoder.config
        known = known or config.input
        default = None if known or from_checkpoint else self.input_of_data(config, run)
        config.input = given.settle(config.input_kind, known, file, default)
        if self.encoder is not None and self.encoder.input != config.input:
            raise ConfigError(f"{file}: one model was trained on {self.encoder.input}, another on {config.input}")
        record_encoder(cfg, config)  # here: the model itself may be given a copy of cfg
        if run is not None and not from_checkpoint:  # its checkpoints shall say it once
            record(run.task, "cmvn", None)
            record(run.task, "normalize_waveform", None)
            record(run.task, "fbank", None)
        self.encoder = config
        return model

    def input_of_data(self, student: EncoderConfig, run) -> Optional[InputConfig]:
        """What fairseq's config.yaml says of the input of a new student, if it does."""
        split = run.dataset.train_subset.split(",")[0] if run is not None else "train"
        said = None if self.normalization_given else self.data_config.input_of(student.input_kind, split)
        if said is not None and said.kind == "fbank" and said.bins != student.fbank_bins:
            raise ConfigError(
                f"{self.data_config.path}: input_feat_per_channel is {said.bins}, but new students take filterbanks of "
                f"{student.fbank_bins} bins: extract those"
            )
        return said

    def build_criterion(self, cfg, from_checkpoint: bool = False):
        check_numbers(cfg, CRITERION_DATACLASS_REGISTRY)
        return super().build_criterion(cfg, from_checkpoint)

    def file_of_model(self, cfg) -> str:
        """The file that a model comes from, for messages."""
        starts = (getattr(cfg, name, None) for name in ("student", "init_from"))
        return compat.evaluated_checkpoint(self.cfg) or next(filter(None, starts), "the checkpoint")

    def go_on_from(self, saved: SavedModel, cfg, file: str) -> None:
        """Notes in the settings `cfg` of a model what the checkpoint `saved` in `file` says of it besides the input.

        That is the encoder, so that what --student or --init-from names is not read again. Raises ConfigError where
        options contradict it.
        """
        check_shape(cfg, saved.model, saved.config, file)
        record_encoder(cfg, saved.config)

    def manifest_paths(self, split: str) -> List[str]:
        paths = [os.path.join(self.cfg.data, f"{name}.tsv") for name in split.split(",")]
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise ManifestError(f"no manifest {missing[0]}: the split {split!r} is read from {self.cfg.data}/NAME.tsv")
        return paths

    def load_dataset(self, split: str, combine: bool = False, task_cfg=None, **kwargs) -> None:
        root = compat.absolute_path(self.cfg.audio_root) if self.cfg.audio_root else self.data_config.audio_root
        rows = join_manifests([read_manifest(path, audio_root=root) for path in self.manifest_paths(split)])
        train = self.trains_on(split)
        options = DatasetOptions(
            train=train,
            seed=self.cfg.seed,
            bad_audio_share=self.cfg.max_bad_audio,
            keep_in_memory=self.cfg.keep_in_memory,
        )
        if train:
            options.epoch_rows = self.epoch_sampler(rows, self.training_rows(rows))
            options.spec_augment = self.spec_augment(split)
            options.perturbation = self.perturbation()
            if options.perturbation is not None:
                require_waveforms(rows, "--perturb-*")
            self.warn_of_one_name(split)
        self.check_data_config(split)
        check_stored(rows, self.student_input.config, remedy=", or choose --front-end fbank_stack, fbank or conv2d")
        self.datasets[split] = dataset = self.make_dataset(split, rows, self.student_input, options)
        logger.info("%s: %d utterances, %s", split, len(rows), duration_text(dataset.sizes.sum() / SAMPLE_RATE))

    def trains_on(self, split: str) -> bool:
        """Whether a split is that of --train-subset, whatever its name; a task without a run goes by the name."""
        run = compat.run_of(self.cfg)
        if compat.evaluated_checkpoint(self.cfg):
            return False
        named = (run.get("dataset") or {}).get("train_subset") if run is not None else None
        return split == named if named else os.path.basename(split.split(",")[0]).startswith("train")

    def warn_of_one_name(self, split: str) -> None:
        """Where validation is on the training split: fairseq has one data set of a name, which is that of training."""
        run = compat.run_of(self.cfg)
        dataset = run.get("dataset") if run is not None and split not in self.datasets else None
        if dataset and not dataset.disable_validation and split in (dataset.valid_subset or "").split(","):
            logger.warning(
                "--valid-subset %s is trained on, too, and validation will be on its utterances as training has them:"
                " sampled, cropped, perturbed and masked; give a copy of the manifest to have them as they are",
                split,
            )

    def training_rows(self, rows) -> np.ndarray:
        """Indices of the rows within the length limits; raises ManifestError when there are none."""
        seconds = rows.n_samples / SAMPLE_RATE
        keep = seconds >= self.cfg.min_seconds
        if not self.crops_long_utterances:
            keep &= seconds <= self.cfg.max_seconds
        if not keep.any():
            raise ManifestError(
                f"{rows.path}: no utterance between {self.cfg.min_seconds} and {self.cfg.max_seconds} seconds; "
                "is n_frames given in samples at 16 kHz (of stored filterbanks: frames)?"
            )
        if not keep.all():
            logger.warning("%s: %d utterances outside the length limits are left out", rows.path, int((~keep).sum()))
        return keep.nonzero()[0]

    def epoch_sampler(self, rows, usable: np.ndarray) -> Callable[[int], np.ndarray]:
        """epoch -> row indices, in random order, balanced over languages or corpora by the temperature."""
        if self.cfg.sampling_weights and self.cfg.sampling_alpha != 1:
            raise ConfigError("--sampling-weights and --sampling-alpha are two answers to one question: give one")
        by_corpus = self.cfg.sampling_by == "corpus" or self.cfg.sampling_weights
        codes, names = rows.codes("corpus" if by_corpus else "src_lang")
        groups = codes[usable]
        weights = self.corpus_weights([names[code] for code in np.unique(groups)], names)

        def sample(epoch: int) -> np.ndarray:
            return usable[sampling_indices(groups, self.cfg.sampling_alpha, epoch, self.cfg.seed, weights=weights)]

        return sample

    def corpus_weights(self, present: List[str], names: List[str]) -> Optional[np.ndarray]:
        """Weights of the manifests `present`, of all `names`; None where none are given."""
        if not self.cfg.sampling_weights:
            return None
        weights = value_of_each(self.cfg.sampling_weights, names, "--sampling-weights")
        rule = f"--sampling-weights {self.cfg.sampling_weights!r}: every weight must be above 0"
        return np.array([POSITIVE.read(weights[name], rule) for name in present])

    crops_long_utterances = False

    @property
    def student_input(self) -> StudentInput:
        if self.encoder is None:
            raise ConfigError("the datasets need the student's input: build the model before loading data")
        return StudentInput(self.encoder.input)

    def check_data_config(self, split: str) -> None:
        """ConfigError where fairseq's config.yaml wants another input than that of the student, and no option says
        which; in evaluation, when the student has been trained, a warning."""
        config, student = self.data_config, self.student_input.config
        if config.not_applied:
            logger.warning("%s: not applied here: %s", config.path, ", ".join(config.not_applied))
        for name in () if self.normalization_given else split.split(","):
            try:
                said = config.input_of(student.kind, name) or student
                # It does not say which variant of filterbanks is meant.
                if replace(said, variance_floor=student.variance_floor, fbank=student.fbank) != student:
                    raise ConfigError(
                        f"{config.path} asks for {said} in {name}, but the student takes {student}: change the "
                        "transforms there, or say with --cmvn what is meant"
                    )
            except ColldError as error:
                if not compat.evaluated_checkpoint(self.cfg):
                    raise
                logger.warning("%s. The student gets what its checkpoint says", error)

    def spec_augment(self, split: str) -> Optional[SpecAugment]:
        """What training does to filterbanks, if anything: by the options, else by fairseq's config.yaml."""
        if not (self.cfg.specaug_freq_masks or self.cfg.specaug_time_masks):
            policies = {self.data_config.spec_augment(name) for name in split.split(",")}
            if len(policies) > 1:
                raise ConfigError(
                    f"{self.data_config.path} has other masks for some of {split} than for others: give "
                    "--specaug-freq-masks and --specaug-time-masks"
                )
            return policies.pop()
        return SpecAugment(
            num_freq_masks=self.cfg.specaug_freq_masks,
            max_freq_width=self.cfg.specaug_freq_width,
            num_time_masks=self.cfg.specaug_time_masks,
            max_time_width=self.cfg.specaug_time_width,
            max_time_fraction=self.cfg.specaug_time_share,
        )

    def perturbation(self) -> Optional[Perturbation]:
        """What training does to waveforms, if anything."""
        given = Perturbation(self.cfg.perturb_speed, self.cfg.perturb_volume_db, self.cfg.perturb_noise_db)
        return None if given == Perturbation() else replace(given, max_samples=int(self.cfg.max_seconds * SAMPLE_RATE))

    def make_dataset(self, split: str, rows, student_input: StudentInput, options: DatasetOptions):
        raise NotImplementedError

    def valid_step(self, sample, model, criterion):
        if not sample:  # no utterance of the batch can be read; fairseq-validate asks nevertheless
            return 0.0, 0, {}
        return super().valid_step(sample, model, criterion)

    def before_epoch(self, trainer) -> None:
        """What the first epoch is to begin with: words about the run, and the dry run."""
        if self.begun:
            return
        self.begun = True
        for remark in remarks(trainer, self.restored):
            logger.warning(remark)
        if self.cfg.dry_run == "none":
            return
        if self.cfg.dry_run == "largest" and trainer.data_parallel_world_size > 1:
            raise ConfigError("--dry-run largest: find it with one process; --max-tokens is per GPU")
        dry_run = DryRun(trainer, self.datasets[trainer.cfg.dataset.train_subset], self.cfg.dry_run_gb)
        if self.cfg.dry_run == "worst":
            dry_run.worst()
            return
        need = dry_run.largest()
        logger.info("the largest batch that fits: %s", dry_run.tell(need))
        raise SystemExit(0)

    def explain_nan(self, trainer, update: int, batches, error: FloatingPointError) -> str:
        """The message of an update that had no finite loss or gradient; keeps its batches beside the checkpoints."""
        return explain_nan(trainer, self.datasets[trainer.cfg.dataset.train_subset], update, batches, error)

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training and not all(math.isfinite(float(log.get("loss", 0.0))) for log in logging_outputs):
            raise FloatingPointError("the loss is NaN or Inf, its gradients are not")

    def get_batch_iterator(self, dataset, max_tokens=None, **kwargs):
        """fairseq would drop the last batch when its size is no multiple of 8, and leaves out utterances longer than
        --max-tokens: training says so, elsewhere they make batches of their own."""
        kwargs["required_batch_size_multiple"] = 1
        if max_tokens is not None and dataset.options.train:
            self.tell_left_out(dataset, max_tokens)
        elif max_tokens is not None:
            max_tokens = max(max_tokens, int(dataset.sizes.max()))
            kwargs["max_positions"] = None
        return super().get_batch_iterator(dataset, max_tokens=max_tokens, **kwargs)

    def tell_left_out(self, dataset, max_tokens: int) -> None:
        """Warns, once for each dataset, of utterances for which no batch is large enough."""
        if dataset in self.told:
            return
        self.told.append(dataset)
        samples = dataset.num_tokens_vec(dataset.ordered_indices())
        long = samples > max_tokens
        if not long.any():
            return
        lost, whole = (duration_text(part.sum() / SAMPLE_RATE) for part in (samples[long], samples))
        told = (
            f"{long.sum()} of {len(long)} training utterances ({lost} of {whole}) are longer than a batch and LEFT OUT:"
            f" --max-tokens {max_tokens} is {max_tokens / SAMPLE_RATE:.1f} s, the longest has"
            f" {samples.max() / SAMPLE_RATE:.1f} s (--max-tokens {samples.max()})"
        )
        if long.all():
            raise ConfigError(told)
        logger.warning(told)

    def max_positions(self):
        return None  # lengths are limited in seconds, when the rows are selected


def remarks(trainer, weights_of: str = "") -> List[str]:
    """What a person may not expect of a run that begins or goes on; weights_of: the checkpoint that it has them of."""
    told, updates, last = [], trainer.get_num_updates(), trainer.cfg.optimization.max_update
    model, restored = trainer.cfg.model, trainer.cfg.checkpoint.restore_file
    names = [name for name in ("student", "init_from") if getattr(model, name, "")]
    start = f"--{names[0].replace('_', '-')}" if names else ""
    if start and weights_of and not updates and getattr(model, names[0]) != weights_of:
        told.append(f"shape and weights are those of {weights_of}: {start} does not count")
    if updates and start:
        told.append(
            f"this run goes on from {restored} at update {updates}: {start} does not count; for a run from its"
            " beginning give another --save-dir"
        )
    frozen = getattr(model, "freeze_encoder_updates", 0) or 0
    if 0 < last <= frozen:
        told.append(f"--freeze-encoder-updates {frozen}: the encoder learns nothing in a run of {last} updates")
    return told


def check_stored(rows: JoinedManifest, wanted: InputConfig, who: str = "the student", remedy: str = "") -> None:
    """ManifestError where rows hold filterbanks that are not what a model takes."""
    if wanted.kind != "fbank":
        require_waveforms(rows, who, remedy)
    elif wanted.fbank != STORED_VARIANT:
        why = f"{who} of {wanted.fbank} filterbanks (stored ones are {STORED_VARIANT} ones)"
        require_waveforms(rows, why, f", or train with --fbank {STORED_VARIANT}")
    for part in rows.parts:
        stored = np.flatnonzero(part.stored_fbank)
        if not len(stored):
            continue
        try:
            bins = stored_shape(part.audio_path(int(stored[0])))[1]
        except AudioError:  # one that cannot be read is counted with all that cannot, and named
            continue
        if bins != wanted.bins:
            raise ManifestError(
                f"{part.where(int(stored[0]))}: filterbanks of {bins} bins, but {who} takes {wanted.bins}: "
                "extract them again, or name the audio itself"
            )
