"""A static folder that transcribes in the browser: the page, onnxruntime-web and an exported model.

    python -m examples.device.make_page site --model models/ctc --runtime node_modules/onnxruntime-web

Any web server can give it out: `python -m http.server --directory site`. Nothing is loaded from elsewhere.
"""

import argparse
import shutil
from pathlib import Path
from typing import List

PAGE = Path(__file__).resolve().parent / "web"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MODEL_FILES = ("tokens.txt", "model.onnx")


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
    for folder, files in ((".", page), ("runtime", runtime), ("model", model)):
        copy(files, args.site / folder)
    size = sum(path.stat().st_size for path in [*page, *runtime, *model])
    print(f"{args.site}: {size / 1e6:.1f} MB; python -m http.server --directory {args.site}")


def copy(files: List[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copy(path, folder / path.name)


if __name__ == "__main__":
    main()
