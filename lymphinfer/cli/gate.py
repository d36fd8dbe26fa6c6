"""``lymphinfer gate``: propose, show, serve, apply."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from lymphinfer.cli.orion import plain_table, progress_bar

if TYPE_CHECKING:
    from lymphinfer.orion.cohort import Cohort
    from lymphinfer.orion.gating import GatedSlide
    from lymphinfer.orion.labels import LabelCounts
    from lymphinfer.orion.propose import Proposal
    from lymphinfer.orion.truth import LabelQuality

app = typer.Typer(
    help="Set gates on a cohort's intensities, look at them, turn them into labels.",
    no_args_is_help=True,
)


class Autofluorescence(StrEnum):
    """Choices of ``--af``."""

    estimate = "estimate"
    published = "published"
    none = "none"


COHORT = typer.Argument(metavar="COHORT", help="The cohort's folder.")
GATES = typer.Option("--gates", "-g", help="The gates file.")
SLIDES = typer.Option("--slides", "-s", help="Slides, such as CRC01,CRC33_01. Default: all.")
PANEL = typer.Option("--panel", help="Markers by a panel's name. Default: the cohort's own.")


@app.command()
def propose(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES] = Path("gates.toml"),
    slides: Annotated[str | None, SLIDES] = None,
    panel: Annotated[str, PANEL] = "",
    af: Annotated[
        Autofluorescence,
        typer.Option(help="Remove autofluorescence by slide, by published numbers, or not."),
    ] = Autofluorescence.estimate,
    confidence: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Probability from which a cell is labelled."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Which cells are fitted on a large slide.")] = 0,
    redo: Annotated[bool, typer.Option(help="Replace gates that a person has set, too.")] = False,
) -> None:
    """Propose gates for every slide. Gates that a person has set in the file stand."""
    from lymphinfer.orion.autofluorescence import AfMethod
    from lymphinfer.orion.gates_file import read_gates, write_gates
    from lymphinfer.orion.gating import propose_cohort

    existing = read_gates(gates) if gates.exists() else None
    opened = _open(cohort, slides)
    with progress_bar() as progress:
        proposed, proposals = propose_cohort(
            opened,
            opened.layout.panel_named(panel),
            existing=existing,
            redo=redo,
            af=AfMethod(af.value),
            confidence=confidence,
            seed=seed,
            progress=progress,
        )
    write_gates(gates, proposed)
    console = Console()
    console.print(_proposal_table(proposals))
    console.print("D is the distance of the two populations in widths; below 2 look twice.")
    console.print(
        f"Gates are in {gates}. Look at them with `lymphinfer gate show {cohort} --gates {gates}`.",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def show(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES] = Path("gates.toml"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNGs.")] = Path("gates"),
    slides: Annotated[str | None, SLIDES] = None,
    panel: Annotated[str, PANEL] = "",
) -> None:
    """Draw each slide's histograms with the four ranges, a PNG a slide."""
    from lymphinfer.orion.gates_file import read_gates
    from lymphinfer.orion.gating import show_gates

    opened = _open(cohort, slides)
    chosen = opened.layout.panel_named(panel)
    with progress_bar() as progress:
        paths = show_gates(
            opened,
            read_gates(gates, opened.folders, chosen.names),
            chosen,
            out,
            progress,
        )
    Console().print(f"{len(paths)} pictures are in {out}.", soft_wrap=True)


@app.command()
def serve(
    cohort: Annotated[Path, typer.Option("--cohort", "-c", help="The cohort's folder.")],
    gates: Annotated[Path, GATES] = Path("gates.toml"),
    slides: Annotated[str | None, SLIDES] = None,
    panel: Annotated[str, PANEL] = "",
    who: Annotated[
        str | None,
        typer.Option(help="Who sets the gates, as the file is to say. Default: the user's name."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; only this machine reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8765,
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Open the page where a pathologist sets the gates; every change is saved to the file at once.

    Start from `lymphinfer gate propose`. Ctrl+C ends it.
    """
    from lymphinfer.web.serve import serve_gates

    def ready(url: str) -> None:
        typer.echo(f"The gating page: {url}\nGates are saved to {gates}. Ctrl+C ends it.")
        if browser:
            import webbrowser

            webbrowser.open(url)

    opened = _open(cohort, slides)
    chosen = opened.layout.panel_named(panel)
    serve_gates(opened, gates, chosen, who=who, host=host, port=port, ready=ready)


@app.command()
def apply(
    cohort: Annotated[Path, COHORT],
    gates: Annotated[Path, GATES] = Path("gates.toml"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the labels, Parquet a slide.")
    ] = None,
    slides: Annotated[str | None, SLIDES] = None,
    panel: Annotated[str, PANEL] = "",
) -> None:
    """Label every cell and report the counts; on a simulated cohort also how right they are."""
    from lymphinfer.orion.gates_file import read_gates
    from lymphinfer.orion.gating import apply_gates
    from lymphinfer.orion.labels import CURATION_RULE
    from lymphinfer.orion.truth import pool_quality

    opened = _open(cohort, slides)
    chosen = opened.layout.panel_named(panel)
    with progress_bar() as progress:
        gated = apply_gates(
            opened,
            read_gates(gates, opened.folders, chosen.names),
            chosen,
            out,
            progress,
        )
    console = Console()
    console.print(_count_table(gated))
    console.print(f"Curation: {CURATION_RULE}.", soft_wrap=True)
    quality = pool_quality(slide.quality for slide in gated if slide.quality is not None)
    if quality:
        console.print(_quality_table(quality))
    if out is not None:
        console.print(f"Labels are in {out}.", soft_wrap=True)


def _open(folder: Path, slides: str | None) -> Cohort:
    from lymphinfer.orion.cohort import open_cohort

    cohort = open_cohort(folder)
    if cohort.layout.caution:
        Console(stderr=True).print(cohort.layout.caution, style="yellow", markup=False)
    return cohort if slides is None else cohort.only(tuple(s.strip() for s in slides.split(",")))


def _proposal_table(proposals: dict[str, tuple[Proposal, ...]]) -> Table:
    numbers = ("neg <", "pos >=", "over >=", "D", "positive", "negative")
    table = plain_table(("slide", "marker", "by"), numbers)
    for slide, own in proposals.items():
        for p in own:
            gate = p.gate
            thresholds = (gate.negative_max, gate.positive_min, gate.overexposure_min)
            table.add_row(
                slide,
                p.marker,
                p.method,
                *(f"{value:,.1f}" for value in thresholds),
                "-" if p.separation is None else f"{p.separation:.1f}",
                f"{p.positive:,}",
                f"{p.negative:,}",
            )
    return table


def _count_table(gated: Sequence[GatedSlide]) -> Table:
    kinds = ("positive", "negative", "uncertain", "overexposed", "artefact", "curated")
    heads = ("positive", "negative", "uncertain", "over", "artefact", "curated")
    table = plain_table(("slide", "marker"), (*heads, "pos : neg"))

    def add(slide: str, counts: Sequence[LabelCounts]) -> None:
        numbers = [sum(getattr(c, kind) for c in counts) for kind in kinds]
        ratio = f"{numbers[0] / numbers[1]:.4f}" if numbers[1] else "-"
        table.add_row(slide, counts[0].marker, *(f"{n:,}" for n in numbers), ratio)

    for slide in gated:
        for counts in slide.labels.counts:
            add(slide.folder, [counts])
    for of_marker in zip(*(slide.labels.counts for slide in gated), strict=True):
        add("all", of_marker)
    return table


def _quality_table(quality: Sequence[LabelQuality]) -> Table:
    numbers = ("precision", "recall", "precision of negatives", "truly positive")
    table = plain_table(("marker",), numbers, "Labels against the simulated truth")
    for q in quality:
        shares = (q.precision, q.recall, q.negative_precision)
        table.add_row(q.marker, *(f"{share:.4f}" for share in shares), f"{q.truly_positive:,}")
    return table
