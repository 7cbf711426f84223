"""The other side of distilhubert_step.py: s3prl's distiller, or the same step around transformers' modules.

A side has `model` (what the optimizer trains), `optimizer`, `set_batch`, `train`, `loss`, `backward`, `update`,
`mean_loss` and `teacher_seconds`; `student_state(model)` gives the peer's student in our names.
"""

import contextlib
import io
import json
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from fairseq.modules import GradMultiply
from torch import nn

from colld_fairseq.checkpoints import names_fairseq, names_hf
from colld_fairseq.checkpoints.files import read_state
from colld_fairseq.modules.lengths import lengths_to_padding_mask

STUDENT_LAYERS = 2
UTTERANCE_NORM, STEPS = 5.0, 200000
ADAMW = dict(lr=2e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-6)  # s3prl's config_runner.yaml

# Read by modules of s3prl that a distillation step does not use (corpora, downloads, configuration files).
UNUSED_BY_THE_STEP = ("torchaudio", "pandas", "requests", "easydict")


def time_calls(side, function, clock):
    """`function`, whose time is added to `side.teacher_seconds`."""

    def timed(*arguments, **options):
        start = clock()
        output = function(*arguments, **options)
        side.teacher_seconds += clock() - start
        return output

    return timed


class Peer:
    """What both peers share. Subclasses set `model` and `optimizer` and implement `loss`."""

    name: str
    model: nn.Module
    teacher_seconds = 0.0

    def set_batch(self, waveforms, lengths):
        self.waveforms, self.lengths = waveforms, lengths
        self.samples = ~lengths_to_padding_mask(lengths, waveforms.size(1))  # True on samples, False on padding

    def backward(self, loss):
        loss.backward()

    def update(self):
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), UTTERANCE_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def mean_loss(self, loss):
        return float(loss.detach())


class S3prlDistiller(Peer):
    """s3prl's DistillerForPretrain and optimizer, imported from a checkout.

    Its imports ask for packages that the step does not need, and torchaudio cannot be loaded beside a CPU build of
    torch: those that are missing are replaced by empty modules while it is imported.
    """

    name = "s3prl distiller"

    def __init__(self, checkout, directory, targets, clock):
        expert, hubert_expert, hubert, optimizers = import_s3prl(checkout)
        config = json.loads(Path(directory, "config.json").read_text(encoding="utf-8"))
        shape = dict(
            encoder_embed_dim=config["hidden_size"],
            encoder_ffn_embed_dim=config["intermediate_size"],
            encoder_attention_heads=config["num_attention_heads"],
        )
        convolutions = str(list(zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"])))
        checkpoint = Path(directory, "s3prl.pt")
        save_s3prl_teacher(
            hubert,
            dict(shape, encoder_layers=config["num_hidden_layers"], conv_feature_layers=convolutions),
            read_state(Path(directory)),
            checkpoint,
        )
        student = dict(
            shape,
            encoder_layers=STUDENT_LAYERS,
            extractor_conv_feature_layers=convolutions,
            final_dim=config["hidden_size"],
            feature_grad_mult=0.1,
            n_tasks=len(targets),
            pred_layer_id=targets,
            cosine_loss=1.0,
            init_teacher_conv_layers=True,
            init_teacher_encoder_layers=True,
        )
        teacher = types.SimpleNamespace(model="hubert_base", n_layers=config["num_hidden_layers"])
        load, torch.hub.load = torch.hub.load, lambda *_: hubert_expert.UpstreamExpert(str(checkpoint))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.model = expert.DistillerForPretrain(expert.DistillerConfig(student), teacher)
        finally:
            torch.hub.load = load
        settings = dict(name="AdamW_with_schedule", warmup_proportion=0.07, **ADAMW)
        self.optimizer = optimizers.get_optimizer([self.model], STEPS, settings)
        teacher = self.model.teacher.model
        teacher.extract_features = time_calls(self, teacher.extract_features, clock)

    def train(self, mode=True):
        self.model.train(mode)
        self.model.teacher.eval()

    def train_as_shipped(self):
        self.model.train()

    def loss(self):
        utterances = [utterance[:length] for utterance, length in zip(self.waveforms, self.lengths.tolist())]
        return self.model(self.waveforms, utterances, self.lengths, self.samples.float())[0]

    def student_state(self, model):
        distiller = self.model.distiller
        encoder = names_fairseq.WAV2VEC.to_ours(distiller.state_dict(), model.encoder.config, origin=self.name)
        state = {f"encoder.{name}": value for name, value in encoder.items()}
        for name in ("weight", "bias"):
            state[f"heads.trunk.0.{name}"] = getattr(distiller.output_layer[0], name)
        last = distiller.output_layer[2]
        for head, (weight, bias) in enumerate(zip(last.weight, last.bias[0, 0])):
            state[f"heads.heads.{head}.weight"], state[f"heads.heads.{head}.bias"] = weight.t(), bias
        return state


def import_s3prl(checkout):
    """Modules: pretrain expert, HuBERT's upstream expert, HuBERT's model, optimizers."""
    package = Path(checkout, "s3prl").resolve()
    if not (package / "pretrain" / "distiller" / "pretrain_expert.py").is_file():
        raise SystemExit(
            f"{checkout} is no checkout of s3prl: it has no s3prl/pretrain/distiller (PyPI's leaves it out)"
        )
    stubs = []
    for name in UNUSED_BY_THE_STEP:
        try:
            __import__(name)
        except (ImportError, OSError):
            sys.modules[name] = types.ModuleType(name)
            stubs.append(name)
    if "easydict" in stubs:
        sys.modules["easydict"].EasyDict = dict
    sys.path[:0] = [str(package.parent), str(package)]  # the expert imports "pretrain" and "upstream" from inside
    try:
        from pretrain.distiller import pretrain_expert
        from s3prl import optimizers
        from s3prl.upstream.hubert import expert, hubert_model
    finally:
        del sys.path[:2]
        for name in stubs:
            del sys.modules[name]
    return pretrain_expert, expert, hubert_model, optimizers


def save_s3prl_teacher(hubert, shape, state, path):
    """Writes transformers' HuBERT weights as the checkpoint that s3prl's upstream reads.

    Mask embedding, final projection and code embeddings, which features do not depend on, stay random.
    """
    spellings = ("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")
    for new, old in spellings:
        state = {key.replace(new, old): value for key, value in state.items()}
    symbols = [[str(code) for code in range(504)]]
    tasks = dict(label_rate=50, normalize=False)
    shape = dict(shape, label_rate=50)
    model = hubert.HubertModel(hubert.HubertConfig(**shape), hubert.HubertPretrainingConfig(**tasks), symbols)
    weights = model.state_dict()
    encoder = [key for key in weights if key not in ("mask_emb", "label_embs_concat") and "final_proj" not in key]
    for key in encoder:
        weights[key] = state[next(iter(names_fairseq.transformers_names({key: None})))]
    model.load_state_dict(weights)
    torch.save(dict(task_cfg=tasks, model_cfg=shape, model_weight=weights, dictionaries_symbols=symbols), path)


class TransformersDistiller(Peer):
    """s3prl's step written with transformers' HuBERT: its modules, s3prl's padding masks, heads and loss."""

    name = "loop around transformers"

    def __init__(self, directory, targets, clock):
        from transformers import HubertConfig, HubertModel

        self.targets = targets
        self.teacher = HubertModel.from_pretrained(directory).eval().requires_grad_(False)
        config = HubertConfig.from_pretrained(directory, num_hidden_layers=STUDENT_LAYERS, feat_proj_layer_norm=False)
        student = HubertModel(config)
        student.load_state_dict(self.teacher.state_dict(), strict=False)
        student.masked_spec_embed.requires_grad_(False)
        width = config.hidden_size
        trunk = nn.Sequential(nn.Linear(width, len(targets) * width), nn.GELU())
        heads = nn.ModuleList(nn.Linear(width, width) for _ in targets)
        self.model = nn.ModuleDict({"student": student, "trunk": trunk, "heads": heads})
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], **ADAMW)
        self.hidden_states = time_calls(self, self.teacher, clock)

    def train(self, mode=True):
        self.model.train(mode)

    def loss(self):
        student = self.model["student"]
        features = GradMultiply.apply(student.feature_extractor(self.waveforms), 0.1).transpose(1, 2)
        mask = student._get_feature_vector_attention_mask(features.size(1), self.samples.long())
        hidden = student.encoder(student.feature_projection(features), attention_mask=mask).last_hidden_state
        parts = self.model["trunk"](hidden).chunk(len(self.targets), dim=-1)
        predictions = torch.stack([head(part) for head, part in zip(self.model["heads"], parts)], dim=1)
        with torch.no_grad():
            states = self.hidden_states(
                self.waveforms, attention_mask=self.samples.long(), output_hidden_states=True
            ).hidden_states
            features = torch.stack([states[target] for target in self.targets], dim=1)
        cosine = F.cosine_similarity(predictions, features, dim=-1)
        return F.l1_loss(predictions, features) - F.logsigmoid(cosine).mean()

    def student_state(self, model):
        encoder = names_hf.WAV2VEC.to_ours(self.model["student"].state_dict(), model.encoder.config, origin=self.name)
        state = {f"encoder.{name}": value for name, value in encoder.items()}
        for part in ("trunk", "heads"):
            state.update({f"heads.{part}.{name}": value for name, value in self.model[part].state_dict().items()})
        return state
