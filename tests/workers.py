"""Several processes of one test, forked from a server that has imported what they need, which takes five seconds."""

import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from commands import environment

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["colld_fairseq", "fairseq_cli.train", "transformers"])


WORKERS = 2


def train_distributed(options: Sequence, folder: Path, backend: str = "legacy_ddp") -> str:
    """What the first of two workers logged. fairseq counts GPUs where it starts workers itself: done here."""
    ranks = [
        [
            *[*options, "--save-dir", folder / "saved", "--cpu", "--distributed-backend", "gloo"],
            *["--distributed-world-size", WORKERS, "--distributed-rank", rank, "--distributed-no-spawn"],
            *["--distributed-init-method", f"file://{folder}/rendezvous", "--ddp-backend", backend],
        ]
        for rank in range(WORKERS)
    ]
    return run_workers(ranks, folder)[0]


def run_workers(
    arguments: Sequence[Sequence],
    folder: Path,
    timeout: float = 300,
    environments: Optional[Sequence[Dict[str, str]]] = None,
) -> List[str]:
    """`fairseq-train` once for each list of arguments, side by side without a GPU; what each one printed. environments:
    variables that each one has besides.

    Every one of them has to end without an error. Its weights are then in worker0.pt, worker1.pt, ... of `folder`.
    """
    logs = [folder / f"worker{rank}.log" for rank in range(len(arguments))]
    environments = environments or [{}] * len(arguments)
    processes = [
        FORKED.Process(target=train, args=([str(word) for word in words], log, more))
        for words, log, more in zip(arguments, logs, environments)
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


def train(words: List[str], log: Path, more: Dict[str, str]) -> None:
    """In the worker: fairseq-train, its output into `log`."""
    os.environ.update(environment(**more))
    with open(log, "w", encoding="utf-8") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
        sys.argv = ["fairseq-train", *words]
        try:
            import fairseq_cli.train
            import torch
            from fairseq.models import distributed_fairseq_model

            trainers = []
            trainer_class, wrapper = fairseq_cli.train.Trainer, distributed_fairseq_model.DistributedDataParallel

            def kept(*arguments, **options):
                trainers.append(trainer_class(*arguments, **options))
                return trainers[0]

            def without_device(module, device_ids, output_device, **options):
                """fairseq names a device to torch's own backend, which takes none on a CPU."""
                return wrapper(module, **options)

            fairseq_cli.train.Trainer = kept
            distributed_fairseq_model.DistributedDataParallel = without_device
            fairseq_cli.train.cli_main()
            torch.save(trainers[0].model.state_dict(), log.with_suffix(".pt"))
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
