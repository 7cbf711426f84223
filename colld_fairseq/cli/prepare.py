"""`colld prepare`: manifests from a corpus as it lies on disk. What is written: `corpora.preparation`."""

import argparse
import os
from pathlib import Path
from typing import Any, Dict

from colld_fairseq.cli.terminal import Console, progress
from colld_fairseq.corpora.columns import TRANSLATION
from colld_fairseq.corpora.plan import make_plan
from colld_fairseq.corpora.preparation import SHOWN, Preparation, Prepared
from colld_fairseq.corpora.request import Request, parse_names, parse_splits
from colld_fairseq.data.manifest_writer import checked_name
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.durations import duration_text
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import printable
from colld_fairseq.named_values import all_named


def run(args: argparse.Namespace) -> int:
    """Writes manifests and perhaps archives and a vocabulary; prints totals. Raises ColldError."""
    console = Console()
    if os.sep in args.name:
        raise ConfigError(f"--name {args.name}: it becomes a part of names of files; leave out {os.sep}")
    checked_name(args.name or "-", "--name")
    normalizer = TextNormalizer(args.lowercase, args.remove_punctuation)
    request = request_of(args)
    preparation = Preparation(
        layout=args.layout,
        folder=request.folder,
        out=Path(args.out),
        name=args.name,
        pack=args.zip,
        workers=args.workers or os.cpu_count() or 1,
        max_bad=args.max_bad,
        made_by=made_by(args),
    )
    if args.vocab_kind:
        from colld_fairseq.data.vocabulary_making import check_place

        check_place(Path(args.out))
    with console.status("reading what the corpus lists"):
        plan = make_plan(args.layout, request, normalizer)
    with progress(console, "prepare") as display:
        bar = display.add_task("", total=len(plan.utterances), done="")

        def show(opened: int, total: int, seconds: float) -> None:
            done = f"{opened}/{total} utterances  {duration_text(seconds)}"
            display.update(bar, completed=opened, done=done)

        prepared = preparation.run(plan, show)
    report(console, Path(args.out), prepared)
    if args.vocab_kind:
        make_vocabulary(args, prepared, normalizer, console)
    return 0


def made_by(args: argparse.Namespace) -> Dict[str, Any]:
    """The options that decide what the manifest of a split holds."""
    names = ("languages", "translate_into", "translations", "columns", "raw_text", "audio_root")
    return {name: getattr(args, name) for name in (*names, "lowercase", "remove_punctuation")}


def request_of(args: argparse.Namespace) -> Request:
    """The options as a request. ConfigError for a column of translations into a language that is not asked for."""
    targets = parse_names(args.translate_into)
    uses = all_named(args.columns, "--columns", "text=sentence,audio=file")
    for use in uses:
        if use.startswith(TRANSLATION) and use.removeprefix(TRANSLATION) not in targets:
            raise ConfigError(
                f"--columns {use}={uses[use]}: is taken with --translate-into {use.removeprefix(TRANSLATION)}; give"
                " that, too, or leave the column out"
            )
    return Request(
        folder=Path(args.folder),
        languages=parse_names(args.languages),
        splits=parse_splits(args.splits),
        translate_into=targets,
        translations=Path(args.translations) if args.translations else None,
        columns=uses,
        raw_text=args.raw_text,
        audio_root=Path(args.audio_root) if args.audio_root else None,
    )


def report(console: Console, out: Path, prepared: Prepared) -> None:
    """Totals of each manifest, then what was left out."""
    for name, total in prepared.manifests.items():
        languages = ", ".join(f"{one} {duration_text(seconds)}" for one, seconds in sorted(total.languages.items()))
        speakers = f", {total.speakers} speakers" if total.speakers else ""  # some corpora name none
        console.say(
            f"{out / name}: {total.utterances} utterances, {duration_text(total.seconds)}{speakers}; "
            f"{languages or 'nothing'}"
        )
    earlier = "an earlier preparation of this corpus"
    for names, what in (
        (prepared.replaced, f"other utterances than {earlier} had, whose manifests are replaced"),
        (prepared.removed, f"of {earlier}, not made by this one, and removed"),
    ):
        if names:
            console.say(f"{', '.join(names)}: {what} (--name NAME keeps both)", style="yellow")
    if prepared.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in prepared.kinds().items())
        console.say(
            f"{len(prepared.left_out)} left out: {kinds} (all of them: {prepared.left_out_path})", style="yellow"
        )
        for one in prepared.left_out[:SHOWN]:
            console.say(printable(f"  {one.id}: {one.kind}: {one.reason}"), style="yellow")


def make_vocabulary(args: argparse.Namespace, prepared: Prepared, normalizer: TextNormalizer, console: Console) -> None:
    """That of the training manifests, with tags if they have several target languages."""
    from colld_fairseq.data import vocabulary_making

    apart = ("_asr.tsv", "_st.tsv")
    names = [name for name in prepared.manifests if name.startswith("train") and not name.endswith(apart)]
    if not names:
        raise ConfigError("--vocab-kind: there is no manifest train...; name one by --splits train=SPLIT")
    targets = {pair.split(">")[-1] for name in names for pair in prepared.manifests[name].languages}
    size = vocabulary_making.make_vocabulary(
        [str(Path(args.out) / name) for name in names],
        Path(args.out),
        kind=args.vocab_kind,
        size=args.vocab_size,
        lang_tags=len(targets) > 1,
        normalizer=normalizer,
    )
    console.say(f"{args.out}/dict.txt: {size} tokens ({args.vocab_kind}), special symbols included")
