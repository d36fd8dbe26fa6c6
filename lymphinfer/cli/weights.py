"""``lymphinfer weights``: list, info, verify, pull, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import DownloadColumn, TransferSpeedColumn
from rich.table import Table

from lymphinfer.bundles.registry import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from lymphinfer.bundles.schema import BundleManifest

app = typer.Typer(
    help="Bundles: what is here, what stands behind it, and getting more.", no_args_is_help=True
)
convert = typer.Typer(help="Make a bundle of published weights.", no_args_is_help=True)
app.add_typer(convert, name="import")

MEGABYTE = 1_000_000
BUNDLE = typer.Argument(metavar="BUNDLE", help="Name or folder.")
MARKERS = typer.Option(help="Bundle whose marker model reads the nuclei.")
LICENCE = typer.Option(help="Of the model.")
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

    from lymphinfer.bundles.evidence import DEFAULT_POINT
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
    if lender := manifest.detector.get("bundle"):
        console.print(f"Markers alone: nuclei are found by the detector of {escape(lender)}.")
    if manifest.is_simulated:
        console.print("[bold yellow]Warning:[/] trained on SIMULATED slides; on real tissue its "
                      "marker probabilities say nothing.")  # fmt: skip
    table = Table("marker", "called from", "evidence")
    for spec in manifest.markers:
        stated = [f"{name} {point.statement}" for name, point in spec.points.items()]
        if not stated:
            alone = spec.at(DEFAULT_POINT)
            stated = ["never" if alone is None else f"{alone.threshold:.2f}"]
        table.add_row(spec.name, "\n".join(stated), escape(spec.statement))
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
    source: Annotated[
        str,
        typer.Argument(
            metavar="URL|NAME",
            help="Of a bundle's folder, or of its bundle.toml; or the name of a HoVer-Net of "
            "TIAToolbox's: hovernet_fast-monusac, hovernet_fast-pannuke, "
            "hovernet_original-consep, hovernet_original-kumar.",
        ),
    ],
    sha256: Annotated[
        str | None,
        typer.Option(
            help="Of bundle.toml, or of the HoVer-Net's file, as the publisher states it: refuses "
            "any other."
        ),
    ] = None,
    markers_from: Annotated[str, MARKERS] = DEFAULT_BUNDLE,
    to: Annotated[Path | None, TO] = None,
) -> None:
    """Download a bundle: resumed where it was cut, checked, and never kept when a hash is wrong."""
    from lymphinfer.bundles.download import pull_bundle
    from lymphinfer.bundles.registry import user_weights
    from lymphinfer.cli.orion import progress_bar

    root = to or user_weights()
    named = source.startswith("hovernet") and "/" not in source
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as report:
        if named:
            from lymphinfer.bundles.importing_hovernet import pull_hovernet

            manifest = pull_hovernet(
                source, root / source, markers_from=markers_from, sha256=sha256, on_bytes=report
            )
        else:
            manifest = pull_bundle(source, root, sha256=sha256, on_bytes=report)
    if named:
        _print_hash(manifest, checked=sha256 is not None)
    _print_made(manifest.name, manifest.folder, own=to is None)


@convert.command("hovernet")
def hovernet(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="TIAToolbox's .pth, or safetensors of the same names."),
    ],
    name: Annotated[str | None, typer.Option(help="Of the bundle. Default: the file's.")] = None,
    types: Annotated[
        str | None,
        typer.Option(
            help="Nucleus types in order, separated by commas, without background. Default: those "
            "of TIAToolbox's table for a file of its name."
        ),
    ] = None,
    mpp: Annotated[float, typer.Option(help="Pixel size it was trained at, µm/px.")] = 0.25,
    markers_from: Annotated[str, MARKERS] = DEFAULT_BUNDLE,
    licence: Annotated[str, LICENCE] = "as published with the weights",
    sha256: Annotated[str | None, typer.Option(help="That the file must have.")] = None,
    to: Annotated[Path | None, TO] = None,
) -> None:
    """Convert HoVer-Net weights of TIAToolbox into a bundle; only tensors are read, no code."""
    from lymphinfer.bundles.importing_hovernet import import_hovernet
    from lymphinfer.bundles.registry import user_weights

    root = to or user_weights()
    manifest = import_hovernet(
        file,
        root / (name or file.stem),
        types=tuple(t.strip() for t in (types or "").split(",") if t.strip()),
        mpp=mpp,
        markers_from=markers_from,
        licence=licence,
        sha256=sha256,
    )
    _print_hash(manifest, checked=sha256 is not None)
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
    markers_from: Annotated[str, MARKERS] = DEFAULT_BUNDLE,
    licence: Annotated[str, LICENCE] = "as published with the model",
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


def _print_hash(manifest: BundleManifest, *, checked: bool) -> None:
    state = "as stated" if checked else (
        "TIAToolbox publishes none to compare with; give it as --sha256 wherever you fetch again"
    )  # fmt: skip
    Console().print(
        f"sha256 of the source file: {manifest.detector['source_sha256']} ({state})", soft_wrap=True
    )


def _print_made(name: str, folder: Path, *, own: bool) -> None:
    argument = name if own else str(folder)
    Console().print(
        f"[green]Ready:[/] {escape(str(folder))}. Use it with --bundle {escape(argument)}",
        soft_wrap=True,
    )
