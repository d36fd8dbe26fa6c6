"""``lymphinfer weights``: list, info, verify, pull, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import DownloadColumn, TransferSpeedColumn
from rich.table import Table

app = typer.Typer(
    help="Bundles: what is here, what stands behind it, and getting more.", no_args_is_help=True
)
convert = typer.Typer(help="Make a bundle of published weights.", no_args_is_help=True)
app.add_typer(convert, name="import")

MEGABYTE = 1_000_000
BUNDLE = typer.Argument(metavar="BUNDLE", help="Name or folder.")
TO = typer.Option("--to", help="Folder of bundles to put it in. Default: your own, which is found.")


@app.command("list")
def list_() -> None:
    """List the bundles that can be named, and what stands behind each marker."""
    from lymphinfer.bundles.registry import DEFAULT_BUNDLE, list_bundles
    from lymphinfer.bundles.schema import read_manifest
    from lymphinfer.errors import BundleError

    table = Table()
    for name in ("bundle", "version", "MB", "markers", "folder"):
        table.add_column(name, overflow="fold", justify="right" if name == "MB" else "left")
    for name, folder in sorted(list_bundles().items()):
        shown = f"{escape(name)} (default)" if name == DEFAULT_BUNDLE else escape(name)
        try:
            manifest = read_manifest(folder)
        except BundleError as error:
            table.add_row(shown, "-", "-", f"[red]{escape(str(error))}[/]", escape(str(folder)))
            continue
        size = sum(p.stat().st_size for n in manifest.files if (p := folder / n).is_file())
        by_evidence: dict[str, list[str]] = {}
        for marker in manifest.markers:
            by_evidence.setdefault(marker.evidence.value, []).append(marker.name)
        evidence = "; ".join(f"{kind}: {', '.join(m)}" for kind, m in by_evidence.items())
        table.add_row(
            shown, manifest.version, f"{size / MEGABYTE:.1f}", evidence, escape(str(folder))
        )
    Console().print(table)


@app.command()
def info(bundle: Annotated[str, BUNDLE]) -> None:
    """Show what a bundle is, what each of its probabilities rests on, and its card."""
    from rich.markdown import Markdown

    from lymphinfer.bundles.registry import find_bundle
    from lymphinfer.bundles.schema import read_manifest

    console = Console()
    folder = find_bundle(bundle)
    manifest = read_manifest(folder)
    console.print(
        f"[bold]{escape(manifest.name)}[/] {escape(manifest.version)}: {escape(manifest.summary)}"
    )
    console.print(f"{escape(str(folder))}, {escape(manifest.licence)}, sha256 {manifest.sha256}",
                  soft_wrap=True)  # fmt: skip
    if manifest.is_simulated:
        console.print("[bold yellow]Warning:[/] trained on SIMULATED slides; on real tissue its "
                      "marker probabilities say nothing.")  # fmt: skip
    table = Table("marker", "called from", "evidence")
    for spec in manifest.markers:
        threshold = "never" if spec.rate is not None else f"{spec.threshold:.2f}"
        table.add_row(spec.name, threshold, escape(spec.statement))
    console.print(table)
    card = folder / "CARD.md"
    console.print(
        Markdown(card.read_text("utf-8")) if card.is_file() else f"No CARD.md in {folder}."
    )


@app.command()
def verify(
    bundles: Annotated[
        list[str] | None, typer.Argument(metavar="[BUNDLE]...", help="Default: all.")
    ] = None,
) -> None:
    """Check every file against its sha256; exit code 1 if one differs, is missing or a pickle."""
    from lymphinfer.bundles.loading import verify_files
    from lymphinfer.bundles.registry import find_bundle, list_bundles
    from lymphinfer.bundles.schema import read_manifest
    from lymphinfer.errors import BundleError

    console = Console()
    bad = 0
    for name in bundles or sorted(list_bundles()):
        try:
            manifest = read_manifest(find_bundle(name))
            verify_files(manifest)
        except BundleError as error:
            bad += 1
            console.print(f"[bold red]Bad:[/] {escape(str(error))}", soft_wrap=True)
        else:
            console.print(
                f"[green]Good:[/] {escape(manifest.name)} {escape(manifest.version)}, "
                f"{len(manifest.files)} files",
                soft_wrap=True,
            )
    if bad:
        raise typer.Exit(1)


@app.command()
def pull(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Of a bundle's folder, or of its bundle.toml.")
    ],
    sha256: Annotated[
        str | None,
        typer.Option(help="Of bundle.toml, as its publisher states it: refuses any other."),
    ] = None,
    to: Annotated[Path | None, TO] = None,
) -> None:
    """Download a bundle: resumed where it was cut, checked, and never kept when a hash is wrong."""
    from lymphinfer.bundles.download import pull_bundle
    from lymphinfer.bundles.registry import user_weights
    from lymphinfer.cli.orion import progress_bar

    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as report:
        manifest = pull_bundle(url, to or user_weights(), sha256=sha256, on_bytes=report)
    _print_made(manifest.name, manifest.folder, own=to is None)


@convert.command("stardist-keras")
def stardist_keras(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="config.json, weights_best.h5 and thresholds.json of the model."
        ),
    ],
    mpp: Annotated[
        float,
        typer.Option(help="Pixel size the model was trained for, µm/px; its files do not say."),
    ],
    name: Annotated[str | None, typer.Option(help="Of the bundle. Default: the folder's.")] = None,
    markers_from: Annotated[
        str, typer.Option(help="Bundle whose patch classifier reads the markers.")
    ] = "he-v1",
    licence: Annotated[str, typer.Option(help="Of the model.")] = "as published with the model",
    to: Annotated[Path | None, TO] = None,
) -> None:
    """Convert an official StarDist model, such as 2D_versatile_he, into a bundle."""
    from lymphinfer.bundles.importing import import_stardist_keras
    from lymphinfer.bundles.registry import user_weights

    root = to or user_weights()
    manifest = import_stardist_keras(
        model,
        root / (name or model.resolve().name),
        mpp=mpp,
        markers_from=markers_from,
        licence=licence,
    )
    _print_made(manifest.name, manifest.folder, own=to is None)


def _print_made(name: str, folder: Path, *, own: bool) -> None:
    argument = name if own else str(folder)
    Console().print(
        f"[green]Ready:[/] {escape(str(folder))}. Use it with --bundle {escape(argument)}",
        soft_wrap=True,
    )
