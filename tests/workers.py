"""Several processes of one test, forked from a server that has imported what they need, which takes five seconds."""

import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import List, Sequence

from commands import environment

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["colld_fairseq", "fairseq_cli.train", "transformers"])


def run_workers(arguments: Sequence[Sequence], folder: Path, timeout: float = 180) -> List[str]:
    """`fairseq-train` once for each list of arguments, side by side without a GPU; what each one printed.

    Every one of them has to end without an error.
    """
    logs = [folder / f"worker{number}.log" for number in range(len(arguments))]
    processes = [
        FORKED.Process(target=train, args=([str(word) for word in words], log)) for words, log in zip(arguments, logs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        process.kill()  # one that is still there hangs
    outputs = [log.read_text(encoding="utf-8") for log in logs]
    codes = [process.exitcode for process in processes]
    assert codes == [0] * len(codes), "\n\n".join(text[-1500:] for text in outputs)
    return outputs


def train(words: List[str], log: Path) -> None:
    """In the worker: fairseq-train, its output into `log`."""
    os.environ.update(environment())
    with open(log, "w", encoding="utf-8") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
        sys.argv = ["fairseq-train", *words]
        try:
            from fairseq_cli.train import cli_main

            cli_main()
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
