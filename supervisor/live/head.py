"""The lines above the tables: the run, its episodes and loads, the broker's health and totals. Pure."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from supervisor.broker.health.findings import size
from supervisor.live.picture import BrokerPicture, RunPicture, Scene
from supervisor.live.words import UNKNOWN, age, amount, clean

OLD: Final = 3.0
"""Seconds after which a look is no longer of now."""
_HEALTH: Final = {"healthy": "bold green", "degraded": "bold yellow", "unhealthy": "bold red"}
_VERDICTS: Final = {"pass": "bold green", "inconclusive": "bold yellow", "fail": "bold red"}


def head(scene: Scene) -> list[Text]:
    """Return the lines, as long as they get; those that say what is wrong may be folded."""
    lines = [Text.assemble(("soakd watch  ", "dim"), (clean(scene.title), "bold"))]
    if scene.trouble:
        lines.append(Text(clean(scene.trouble), "bold red", overflow="fold"))
    if scene.run is not None:
        lines += [_run(scene.run), _episodes(scene.run)]
        if scene.run.loads:
            lines.append(_loads(scene.run))
    broker = scene.broker
    if broker is None:
        if scene.run is not None:
            lines.append(
                Text("the broker is not watched at present: the run begins or ends, or has none", "dim")
            )
        elif not scene.trouble:
            lines.append(Text("connecting ...", "dim"))
        return lines
    lines.append(_health(broker))
    if broker.health is not None and len(broker.health.findings) > 1:
        lines.append(Text.assemble(("  ", ""), (clean(broker.health.findings[1]), "yellow")))
    lines.append(_totals(broker))
    if broker.why and _subject(broker.why) != _subject(scene.trouble):
        lines.append(Text(f"not everything is known: {clean(broker.why)}", "yellow", overflow="fold"))
    return lines


def _subject(text: str) -> str:
    """Return what a message is about: one that cannot connect says so twice, once with how long it waited."""
    return text.partition(": ")[0]


def _run(run: RunPicture) -> Text:
    line = Text.assemble(
        (clean(run.soak or UNKNOWN), "bold"), (f"  seed {run.seed}  ", "dim"), (run.phase, "bold")
    )
    if run.verdict:
        line.append(f"  {run.verdict.upper()}", _VERDICTS.get(run.verdict, "bold"))
    if run.soaking_for is not None:
        line.append(f"  {age(run.soaking_for)} soaked")
    if run.time_left is not None:
        line.append(f"  {age(run.time_left)} left", "bold")
    if run.paused:
        line.append("  faults paused", "yellow")
    if run.steady is not None:
        line.append("  steady" if run.steady else "  not steady", "green" if run.steady else "yellow")
        if run.failing:
            line.append(f": {clean(', '.join(run.failing))}", "dim")
    return line


def _episodes(run: RunPicture) -> Text:
    line = Text.assemble(("episodes  ", "dim"))
    for episode in run.episodes.open:
        line.append(f"{clean(episode.episode)} {episode.stage} {age(episode.since)}", "bold yellow")
        line.append(f" on {clean(', '.join(episode.targets))}  ")
    for fault, outcomes in run.episodes.closed.items():
        bad = outcomes.get("not_recovered", 0)
        line.append(f"{clean(fault)} {sum(outcomes.values())} closed  ", "dim")
        if bad:
            line.append(f"{bad} not recovered  ", "bold red")
    if not run.episodes.open and not run.episodes.closed:
        line.append("none")
    return line


def _loads(run: RunPicture) -> Text:
    line = Text.assemble(("loads     ", "dim"))
    for name, load in run.loads.items():
        share = UNKNOWN if load.ok_share is None else f"{int(load.ok_share * 1000) / 10:g}%"
        line.append(f"{clean(name)} {share} of {amount(load.scheduled)}, {load.rate:.1f}/s  ")
    return line


def _health(broker: BrokerPicture) -> Text:
    health = broker.health
    if health is None:
        return Text.assemble((UNKNOWN, "bold cyan"), ("  health has not been looked at yet", "dim"))
    line = Text.assemble(
        (health.state.upper(), _HEALTH.get(health.state, "bold")), f"  {clean(health.headline)}"
    )
    if len(health.findings) > 2:
        line.append(f"  (and {len(health.findings) - 1} more)", "dim")
    return line


def _totals(broker: BrokerPicture) -> Text:
    if broker.seen is None:
        return Text.assemble(("streams ", "dim"), UNKNOWN)
    about = "at least " if broker.unknown else ""
    line = Text.assemble(
        ("streams ", "dim"),
        (f"{broker.total:,}", "bold"),
        ("  messages ", "dim"),
        f"{about}{amount(broker.messages)}",
        ("  stored ", "dim"),
        f"{about}{size(broker.bytes)}",
    )
    _keys(broker, line)
    if broker.meta_leader:
        line.append("  led by ", "dim").append(clean(broker.meta_leader))
    if broker.seen > OLD:
        line.append(f"  as of {age(broker.seen)} ago", "bold yellow")
    return line


def _keys(broker: BrokerPicture, line: Text) -> None:
    """Say how many keys there are; of several buckets together, so that the line stays short."""
    buckets = broker.buckets
    if buckets:
        about = "" if all(bucket.complete for bucket in buckets) else "at least "
        single = len(buckets) == 1 and not broker.unwatched
        count = f"{about}{sum(bucket.live for bucket in buckets):,}"
        line.append("  keys ", "dim").append(UNKNOWN if single and about else count)
        if not single:
            of = f" of {len(buckets) + broker.unwatched}" if broker.unwatched else ""
            line.append(f" in {len(buckets)}{of} buckets", "dim")
    elif broker.unwatched:
        line.append(f"  {broker.unwatched} buckets, not watched", "dim")
