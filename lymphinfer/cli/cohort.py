"""``lymphinfer cohort``: init, check, register, quantify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lymphinfer.cli.orion import check, plain_table, progress_bar

if TYPE_CHECKING:
    from lymphinfer.orion.cohort import OrionSlide

app = typer.Typer(
    help="Your own slides with immunofluorescence: describe, check, align and measure them.",
    no_args_is_help=True,
)
COHORT = typer.Argument(metavar="COHORT", help="The cohort's folder, with its cohort.toml.")
SLIDES = typer.Option("--slides", "-s", help="Slides by name, such as a,b. Default: all.")
TRANSFORMS = "transforms"

app.command("check")(check)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the slides lie.")],
) -> None:
    """Write a first cohort.toml by what lies in a folder; read it and correct it."""
    from lymphinfer.cohorts.starting import init_cohort

    path, notes = init_cohort(folder)
    console = Console()
    for note in notes:
        console.print("To do:", note, style="yellow", markup=False, soft_wrap=True)
    console.print(
        f"{path} is written. Read it, correct it, then run `lymphinfer cohort check {folder}`.",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def register(
    cohort: Annotated[Path, COHORT],
    slides: Annotated[str | None, SLIDES] = None,
) -> None:
    """Find the transform from each H&E to its immunofluorescence, with how good it is.

    Writes transforms/SLIDE.toml and a picture, SLIDE.png. Exit code 1 where one is refused.
    """
    from PIL import Image

    from lymphinfer.cohorts.register import register as find
    from lymphinfer.errors import LymphinferError
    from lymphinfer.orion.align import write_transform

    table = plain_table(("slide", "transform"), ("degrees", "shift µm", "error µm", "agreeing"))
    refused, written = [], []
    with progress_bar() as report:
        chosen = _chosen(cohort, slides)
        for done, slide in enumerate(chosen):
            report(slide.folder, done, len(chosen))
            out = cohort / TRANSFORMS / f"{slide.folder}.toml"
            try:
                fluorescence, plane, mpp = _to_register(slide)
                with slide.open_he() as image:
                    found = find(image, fluorescence, plane, mpp)
                out.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(found.picture).save(out.with_suffix(".png"))
                if not found.is_good:
                    raise found.problem(fluorescence)
            except LymphinferError as error:
                refused.append(str(error))
                continue
            quality = {
                "error_um": found.error_um,
                "shift_um": found.shift_um,
                "agreeing": found.agreeing,
            }
            write_transform(out, found.to_if, quality, "lymphinfer cohort register")
            written.append(slide.folder)
            numbers = (found.angle_deg, found.shift_um, found.error_um)
            table.add_row(
                slide.folder, str(out), *(f"{n:.2f}" for n in numbers), f"{found.agreeing:.0%}"
            )
    console = Console()
    if written:
        console.print(table)
        console.print(
            "Look at the pictures (left: as the files are, right: aligned). Then name the files in "
            f'cohort.toml, such as: transform = "{TRANSFORMS}/{written[0]}.toml"',
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    for text in refused:
        console.print("Refused:", text, style="red", markup=False, soft_wrap=True)
    if refused:
        raise typer.Exit(1 if written else 2)


@app.command()
def quantify(
    cohort: Annotated[Path, COHORT],
    slides: Annotated[str | None, SLIDES] = None,
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", help="Whose detector finds nuclei without a mask.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    ring_um: Annotated[
        float, typer.Option(help="Dilation of nuclei that are found, µm.", min=0, max=10)
    ] = 1.6,
    redo: Annotated[bool, typer.Option("--redo", help="Also where tables are there.")] = False,
) -> None:
    """Measure every cell on the immunofluorescence: cell tables where a cohort has none.

    Tables go to measured/ in the cohort's folder. Those of the same images are kept.
    """
    from lymphinfer.cohorts.quantify import quantify_slide
    from lymphinfer.orion.layout import MEASURED

    chosen = _chosen(cohort, slides)
    console = Console()
    for slide in chosen:
        with progress_bar() as report:

            def told(done: int, total: int, name: str = slide.folder) -> None:
                report(name, done, total)

            cells = quantify_slide(
                slide,
                cohort / MEASURED / "nuclei" / slide.folder,
                bundle=bundle,
                device=device,
                ring_um=ring_um,
                redo=redo,
                progress=told,
            )
        text = "was there" if cells is None else f"{cells:,} cells"
        console.print(f"{slide.folder}: {slide.cells}, {text}", soft_wrap=True, highlight=False)


def _chosen(folder: Path, slides: str | None) -> tuple[OrionSlide, ...]:
    """Slides of a cohort that measures its cells; DataError with all that is wrong."""
    from lymphinfer.errors import DataError
    from lymphinfer.orion.cohort import scan_cohort

    cohort, problems = scan_cohort(folder, measured=False)
    if problems:
        raise DataError("\n".join(problems))
    names = None if slides is None else tuple(s.strip() for s in slides.split(","))
    return (cohort if names is None else cohort.only(names)).slides


def _to_register(slide: OrionSlide) -> tuple[Path, int, float]:
    """The immunofluorescence's file, nuclear plane and pixel size."""
    from lymphinfer.errors import DataError
    from lymphinfer.orion.image_check import inspect_image

    plane = slide.layout.nuclei_plane
    if slide.if_ is None or plane is None:
        raise DataError(
            f"{slide.folder}: registration compares nuclei: it needs an immunofluorescence image "
            "and the name of its nuclear stain, [image] nuclei, in cohort.toml."
        )
    facts, problems = inspect_image(slide.if_)
    if facts is None:
        raise DataError("\n".join(problems))
    mpp = slide.if_mpp or facts.mpp
    if mpp is None:
        raise DataError(
            f"{slide.if_}: states no pixel size. Write if_mpp into the slide's table in "
            "cohort.toml."
        )
    return slide.if_, plane, mpp
