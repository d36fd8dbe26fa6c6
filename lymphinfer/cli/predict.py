"""``lymphinfer predict``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lymphinfer.cli.enums import Engine, Format, Hierarchy, Point


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SLIDE|FOLDER|PATTERN|LIST",
            help="A slide or its http(s) or s3 address; a folder, searched with its subfolders; a "
            "quoted pattern such as 'slides/**/*.svs'; or a csv or tsv with the columns "
            "slide[, mpp, bundle, out, roi, tissue, series, nuclei, regions].",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Result folder. Default: <slide>.lymphinfer beside it."),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle",
            "-b",
            help="Name or folder of a bundle. Default: he-v2.",
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="stardist, hovernet, or a bundle whose detector finds the nuclei. "
            "Default: the bundle's own."
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="Pixel size of level 0, µm/px, where the file has none or a wrong one."),
    ] = None,
    format: Annotated[
        Format, typer.Option("--format", "-f", help="zip opens fastest in QuPath.")
    ] = Format.zip,
    hierarchy: Annotated[
        Hierarchy | None,
        typer.Option(help="How a child marker is kept below its parent. Default: the bundle's."),
    ] = None,
    operating_point: Annotated[
        Point,
        typer.Option(
            help="From where nuclei are called: few wrong calls, or few missed. "
            "A bundle without points has thresholds alone."
        ),
    ] = Point.balanced,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8.")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="auto, torch, openvino: what computes the networks.")
    ] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", "-w", help="Threads that read and decode.")
    ] = 4,
    tile: Annotated[int, typer.Option(help="Tile side at the working pixel size, px.")] = 2048,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop/--no-crop", help="Subtract the slide's bounds, as QuPath does by default."
        ),
    ] = True,
    roi: Annotated[
        Path | None,
        typer.Option(
            help="QuPath annotations as GeoJSON: only nuclei inside them. A folder with one file "
            "a slide, named like it, where there are several slides."
        ),
    ] = None,
    tissue: Annotated[
        Path | None,
        typer.Option(
            help="Annotations as GeoJSON that are the tissue, instead of looking for it; a folder "
            "as for --roi."
        ),
    ] = None,
    within_class: Annotated[
        list[str] | None,
        typer.Option("--within-class", help="Only inside annotations of this class; repeatable."),
    ] = None,
    nuclei: Annotated[
        Path | None,
        typer.Option(
            help="Nuclei as GeoJSON (QuPath's detections or cells, CellViT, Space Ranger) to "
            "classify instead of detecting some; a folder as for --roi."
        ),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            help="QuPath annotations as GeoJSON to count by, as lymphinfer regions does; a folder "
            "as for --roi."
        ),
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin", metavar="CLASS:UM[,UM]",
            help="With --regions: bands inside and outside of a class's border, Tumor:100,500.",
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            help="Number or name of the image to read, of a file that holds several (see "
            "`lymphinfer info`). Default: the largest scan."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on with what does not look like an H&E slide.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Make the page to look at when done.")
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Compute again what is already there.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what an earlier run failed on.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the slides and what would be done; do nothing.")
    ] = False,
    devices: Annotated[
        str | None,
        typer.Option(help="Several devices: cuda:0,cuda:1, or auto for every GPU. Over --device."),
    ] = None,
    slide_timeout: Annotated[
        float | None, typer.Option(help="Seconds that one slide may take.")
    ] = None,
    stall_timeout: Annotated[
        float, typer.Option(help="Seconds without a finished tile after which a slide has hung.")
    ] = 1800,
    memory_limit: Annotated[
        float | None,
        typer.Option(help="GB at which a worker is ended. Default: 90 % of what there is."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="dask: on a cluster; needs the extra `cluster`.")
    ] = Engine.local,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler, tcp://host:8786. Default: a local one."),
    ] = None,
) -> None:  # fmt: skip
    """Detect nuclei and estimate CD45, CD3e, CD4 and CD8a on H&E slides.

    Writes a file to drop on the open image in QuPath, a summary, and the nucleus table. The same
    command again goes on where an interrupted one stopped; started several times on the same
    folder, on one machine or many, its processes share the slides.
    """
    # The command line answers --help before torch is loaded.
    # Before numpy is loaded: its threads and scipy's wait busily, and a prediction needs neither.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from lymphinfer.batch.calls import CallFile, written_down
    from lymphinfer.batch.inputs import is_single, results_root
    from lymphinfer.batch.options import BatchOptions, device_names
    from lymphinfer.batch.run import dask_workers, worker_processes
    from lymphinfer.cli.predict_batch import list_jobs, run_batch
    from lymphinfer.cli.predict_run import run
    from lymphinfer.errors import LymphinferError
    from lymphinfer.extras import require_extra
    from lymphinfer.predict.settings import PredictSettings

    if report:
        require_extra("report", "predict --report")
    settings = PredictSettings(
        bundle=bundle or "",
        mpp=mpp,
        format=format.value,
        hierarchy=None if hierarchy is None else hierarchy.value,
        device=device,
        precision=precision,
        runtime=runtime,
        workers=workers,
        tile_px=tile,
        crop_to_bounds=crop,
        redo=redo,
        roi=None if roi is None else str(roi),
        within_class=tuple(within_class or ()),
        tissue=None if tissue is None else str(tissue),
        detector=detector,
        operating_point=operating_point.value,
        series=series,
        force=force,
        nuclei=None if nuclei is None else str(nuclei),
        regions=None if regions is None else str(regions),
        margins=tuple(margin or ()),
    )
    options = BatchOptions(
        devices=tuple(name.strip() for name in (devices or "").split(",") if name.strip()),
        slide_timeout=slide_timeout,
        stall_timeout=stall_timeout,
        memory_limit_gb=memory_limit,
        retry_failed=retry_failed,
    )
    if scheduler is not None and engine is not Engine.dask:
        raise LymphinferError(f"--scheduler {scheduler}: needs --engine dask")
    if dry_run:
        code = list_jobs(source, out, settings, options)
    else:
        single = is_single(source)
        place = None
        if engine is Engine.dask:
            place = dask_workers(options, scheduler)
        elif single and options.devices:
            names = device_names(options, device)
            settings = replace(settings, device=names[0])
            place = worker_processes(settings, options) if len(names) > 1 else None
        work = run if single else run_batch
        with written_down(CallFile(results_root(source, out), sys.argv[1:])) as call:
            call.exit_code = work(
                source, out, settings, options, place=place, on_begin=call.begin, report=report
            )
        code = call.exit_code
    if code:
        raise typer.Exit(code)
