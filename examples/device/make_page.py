"""A static folder that transcribes in the browser: the page, onnxruntime-web and an exported model.

    python -m examples.device.make_page site --model models/ctc --runtime node_modules/onnxruntime-web

Any web server can give it out: `python -m http.server --directory site`. Nothing is loaded from elsewhere.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Dict, List, Union

from colld_fairseq.checkpoints.onnx_reading import metadata_of, open_graph
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.export.family import ENCODER

PAGE = Path(__file__).resolve().parent / "web"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MODEL_FILES = ("tokens.txt", "model.onnx")
INPUTS = ["features", "lengths"]  # that the page gives a graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder to write to; made if it does not exist")
    parser.add_argument("--model", type=Path, required=True, help="folder of colld export, of a CTC student")
    parser.add_argument("--runtime", type=Path, required=True, help="folder of the npm package onnxruntime-web")
    args = parser.parse_args()
    page = sorted(path for path in PAGE.iterdir() if path.suffix in (".html", ".js"))
    runtime = [args.runtime / "dist" / name for name in RUNTIME_FILES]
    model = [args.model / name for name in MODEL_FILES]
    model += sorted(args.model.glob("model.int8.onnx"))
    missing = [path for path in [*runtime, *model] if not path.is_file()]
    if missing:
        parser.error(f"{missing[0]} is not there")
    try:
        given = input_of(args.model / "model.onnx")
    except (CheckpointError, ConfigError) as error:
        parser.error(str(error))
    for folder, files in ((".", page), ("runtime", runtime), ("model", model)):
        copy(files, args.site / folder)
    (args.site / "model" / "input.json").write_text(json.dumps(given))
    size = sum(path.stat().st_size for path in [*page, *runtime, *model])
    print(f"{args.site}: {size / 1e6:.1f} MB; python -m http.server --directory {args.site}")


def input_of(model: Path) -> Dict[str, Union[str, int]]:
    """Kind and bins of the filterbanks that an exported graph reads. ConfigError for one that reads anything else."""
    opened = open_graph(model)
    names = [value.name for value in opened.graph.input]
    if names != INPUTS:
        raise ConfigError(
            f"{model} reads {', '.join(names)}; the page gives filterbanks, to a CTC student that reads them"
        )
    metadata = metadata_of(opened)
    if ENCODER not in metadata:
        raise ConfigError(f"{model} does not say which filterbanks it reads: export it with this version")
    given = json.loads(metadata[ENCODER])["input"]
    return {"fbank": given["fbank"], "bins": given["bins"]}


def copy(files: List[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copy(path, folder / path.name)


if __name__ == "__main__":
    main()
