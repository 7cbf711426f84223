"""Verdicts, tables and plots of a campaign, from the raw output in its folder.

Writes OUT/report.md (verdicts first), OUT/report.json (everything, with the files that each figure comes from) and
OUT/CLAIM.png; OUT/CLAIM.plan.json says what was compared.
"""

import json
from dataclasses import asdict
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from colld_fairseq.files import write_atomically
from colld_fairseq.scoring.measures import NAMES
from examples.campaign import verdict
from examples.campaign.build import Builder, Run
from examples.campaign.plan import Claim, System
from examples.campaign.verdict import Decoded, Verdict
from examples.driver.jobs import finished, spent, stopped
from examples.driver.plan import Plan, Result
from examples.driver.plot import save_plot
from examples.driver.report import Table, build_tables, markdown_table, without_nan
from examples.driver.scores import collect

UNEQUAL = 1.1  # ratio of core-hours from which two systems have had unequal compute


class Trained(NamedTuple):
    """A system with one seed."""

    system: System
    seed: int
    run: Run
    scored: Dict[str, str]
    """Test -> the job that scores it."""


class Judged(NamedTuple):
    """A claim with its verdicts. report: as of the driver's `collect`; hours: system -> core-hours per seed."""

    claim: Claim
    verdicts: List[Verdict]
    report: Dict[str, Any]
    hours: Dict[str, Optional[float]]
    trained: List[Trained]


def write_report(builder: Builder, claims: Sequence[Claim], machine: Dict[str, Any]) -> List[Judged]:
    """Judges what is there; writes page, JSON and plots."""
    out = builder.out
    judged = [judge_claim(builder, claim) for claim in claims]
    for one in judged:
        one.report["machine"] = machine
        save_plot(one.report, out / f"{one.claim.name}.png")
    content = {
        "title": builder.campaign.title,
        "machine": machine,
        "claims": [claim_content(builder, one) for one in judged],
    }
    text = json.dumps(without_nan(content), indent=1, ensure_ascii=False, default=str) + "\n"
    write_atomically(out / "report.json", text.encode())
    write_atomically(out / "report.md", page(builder, judged, machine).encode())
    return judged


def judge_claim(builder: Builder, claim: Claim) -> Judged:
    trained = []
    for system in claim.systems.values():
        for seed in claim.seeds:
            run = builder.system(claim, system.name, seed)
            trained.append(Trained(system, seed, run, builder.decode(claim, builder.picked(claim, system), run)))
    hours = {name: core_hours(builder, [one for one in trained if one.system.name == name]) for name in claim.systems}
    verdicts = []
    for comparison in claim.comparisons:
        result = verdict.judge(comparison, decoded(builder, claim, trained, comparison.test), dead(builder, trained))
        result.reasons.extend(unequal(comparison.system, result.baseline, hours))
        verdicts.append(result)
    write_plan(builder, claim, trained)
    return Judged(claim, verdicts, collect(builder.out, builder.out / f"{claim.name}.plan.json"), hours, trained)


def decoded(builder: Builder, claim: Claim, trained: Sequence[Trained], test: str) -> Dict[str, List[Decoded]]:
    """System -> its scored hypotheses of a test, by seed."""
    files: Dict[str, List[Decoded]] = {}
    for one in trained:
        if test in one.scored and finished(builder.out, one.scored[test]):
            how = one.system.tests[test]
            hypotheses = builder.out / one.run.last / test / f"generate-{how.subset}.txt"
            manifest = builder.data(claim.data) / f"{how.subset}.tsv"
            files.setdefault(one.system.name, []).append(Decoded(hypotheses, manifest, how.scoring))
    return files


def dead(builder: Builder, trained: Sequence[Trained]) -> Dict[str, str]:
    """System -> why a run that it needs was stopped for good."""
    reasons: Dict[str, str] = {}
    for one in trained:
        for name in builder.needed_by([one.run.last]):
            if stopped(builder.out, name):
                note = json.loads((builder.out / f"{name}.stopped").read_text())
                reasons.setdefault(one.system.name, f"seed {one.seed}, {name}.log: {note['reason']}")
    return reasons


def core_hours(builder: Builder, trained: Sequence[Trained]) -> Optional[float]:
    """Processor time per seed of all that a system was made of, but for the features that all share. None where a run
    is not finished."""
    total = 0.0
    for one in trained:
        for name in builder.needed_by([one.run.last]):
            if name in builder.work and not name.startswith("features/"):
                if not (finished(builder.out, name) or stopped(builder.out, name)):
                    return None
                total += spent(builder.out, name)["core_seconds"] / 3600
    return total / len(trained) if trained else None


def unequal(system: str, baseline: str, hours: Dict[str, Optional[float]]) -> List[str]:
    """A remark where the two were not given the same compute."""
    ours, theirs = hours.get(system), hours.get(baseline)
    if not ours or not theirs or max(ours, theirs) <= UNEQUAL * min(ours, theirs):
        return []
    return [f"unequal compute: {ours:.2g} against {theirs:.2g} core-hours per seed"]


def write_plan(builder: Builder, claim: Claim, trained: Sequence[Trained]) -> None:
    """What is compared and where every figure lies, as the driver's report reads it. A test is a group."""
    results = []
    for one in trained:
        logs = {stage: f"{job}.log" for stage, job in one.run.stages.items()}
        for test in one.scored:
            checkpoint, scores = f"{one.run.last}/checkpoint_best.pt", f"{one.run.last}/{test}.json"
            if not finished(builder.out, one.scored[test]):
                continue
            results.append(Result(one.system.name, one.system.label, one.seed, test, [scores], logs, checkpoint))
    there, comparisons = {result.system for result in results}, {}
    for one in claim.comparisons:
        if not one.minus and {one.system, *one.baselines} <= there:  # the page has all measures of a pair
            comparisons.setdefault((one.system, one.baselines), [one.question, one.system, list(one.baselines)])
    plan = Plan(claim.title, results, list(comparisons.values()), None, average="all", notes=list(claim.notes))
    content = json.dumps(asdict(plan), indent=1, ensure_ascii=False, default=str)
    write_atomically(builder.out / f"{claim.name}.plan.json", content.encode())


# -- page --------------------------------------------------------------------------------------------------------------


def page(builder: Builder, judged: Sequence[Judged], machine: Dict[str, Any]) -> str:
    where = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}"
    parts = [f"# {builder.campaign.title}", f"Hardware: {where}.", markdown_table(verdicts_table(judged))]
    for one in judged:
        claim = one.claim
        parts += [f"## {claim.name}: {claim.title}", f"Hypothesis: {claim.hypothesis.strip()}", *claim.notes]
        parts += [markdown_table(comparisons_table(one), "###"), remarks(one)]
        without_gains = {**one.report, "comparisons": []}  # which the comparisons above have, with intervals
        parts += [markdown_table(table, "###") for table in build_tables(without_gains) if table.rows]
        parts += [markdown_table(cost_table(builder, one), "###"), f"![{claim.name}]({claim.name}.png)"]
        parts += [markdown_table(sources_table(builder, one), "###")]
        if one.report["missing"]:
            parts.append("\n".join(["Missing:", "", *(f"- {item}" for item in one.report["missing"])]))
    return "\n\n".join(part for part in parts if part) + "\n"


def verdicts_table(judged: Sequence[Judged]) -> Table:
    """Of every claim: the verdict, and the comparisons that decide it."""
    rows = []
    for one in judged:
        deciding = [result for result in one.verdicts if result.comparison.decides]
        effects = "; ".join(f"{result.comparison.question}: {effect(result)}" for result in deciding)
        rows.append([one.claim.name, one.claim.title, f"**{verdict.of_claim(one.verdicts)}**", effects])
    return Table("Verdicts", ["", "claim", "verdict", "effect (95 % interval)"], rows)


def comparisons_table(one: Judged) -> Table:
    rows = []
    for result in one.verdicts:
        comparison, name = result.comparison, NAMES[result.comparison.measure]
        pair = [f"{result.scores[system]:.1f}" for system in (comparison.system, result.baseline) if result.scores]
        rows.append([
            comparison.question, f"{comparison.test}, {name}", " / ".join(pair) or "-", effect(result),
            f"{result.seeds} × {result.utterances}" if result.effect else "-", result.verdict,
        ])  # fmt: skip
    header = ["question", "test", "system / baseline", "gain (95 % interval)", "seeds × utterances", "verdict"]
    return Table("Comparisons", header, rows)


def effect(result: Verdict) -> str:
    """The gain in percent of the baseline, or points of two gains; positive = as the claim has it."""
    if result.effect is None:
        return "-"
    unit = "points" if result.comparison.minus else "%"
    return f"{result.effect.value:+.1f} {unit} ({result.effect.low:+.1f} to {result.effect.high:+.1f})"


def remarks(one: Judged) -> str:
    lines = [f"- {result.comparison.question}: {reason}" for result in one.verdicts for reason in result.reasons]
    lines += [
        f"- {result.comparison.question}: the baseline is {result.baseline}, the best of"
        f" {', '.join(result.comparison.baselines)} on the test set"
        for result in one.verdicts
        if result.effect and len(result.comparison.baselines) > 1
    ]
    return "\n".join(lines)


def cost_table(builder: Builder, one: Judged) -> Table:
    """Beside what the plan told. A run that several systems share is in the sum of each of them."""
    rows = []
    for name, system in one.claim.systems.items():
        runs = [trained.run for trained in one.trained if trained.system.name == name]
        needed = builder.needed_by([runs[0].last])
        planned = sum(
            builder.work[job].core_hours for job in needed if job in builder.work and not job.startswith("features/")
        )
        hours = one.hours[name]
        rows.append([system.label, str(len(runs)), f"{planned:.2f}", "-" if hours is None else f"{hours:.2f}"])
    title = "Core-hours per seed, with all that a system was made of but for the teachers' features, which are shared"
    return Table(title, ["", "seeds", "planned", "spent"], rows)


def sources_table(builder: Builder, one: Judged) -> Table:
    rows = [
        [trained.system.name, str(trained.seed), *(f"{job}.log" for job in trained.run.stages.values())]
        for trained in one.trained
    ]
    width = max(len(row) for row in rows)
    rows = [[*row[:2], ", ".join(row[2:width])] for row in rows]
    title = "Where the figures come from (beside the last .log: .yaml, checkpoints, TEST.json, TEST/generate-*.txt)"
    return Table(title, ["system", "seed", "training logs"], rows)


def claim_content(builder: Builder, one: Judged) -> Dict[str, Any]:
    """For programs."""
    return {
        "name": one.claim.name,
        "title": one.claim.title,
        "hypothesis": one.claim.hypothesis,
        "verdict": verdict.of_claim(one.verdicts),
        "comparisons": [
            {**asdict(result), "effect": None if result.effect is None else result.effect._asdict()}
            for result in one.verdicts
        ],
        "core_hours_per_seed": one.hours,
        "stopped": dead(builder, one.trained),
        "sources": [
            {
                "system": trained.system.name,
                "seed": trained.seed,
                "stages": trained.run.stages,
                "scores": {test: f"{trained.run.last}/{test}.json" for test in trained.scored},
                "hypotheses": {test: f"{trained.run.last}/{test}" for test in trained.scored},
            }
            for trained in one.trained
        ],
        "results": one.report["results"],
        "summary": one.report["summary"],
        "missing": one.report["missing"],
    }
