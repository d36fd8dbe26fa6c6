"""What a slide costs: its shards, their scheduling, its storage. ``docs/scale.md`` has the table.

python examples/cluster/measure.py --side 20000            a made slide
python examples/cluster/measure.py slide.svs --device cuda one of your own
python examples/cluster/measure.py --side 20000 --dask     with the cost of a Dask task
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lymphinfer.batch.claims import Claim, Claims
from lymphinfer.batch.job import Job
from lymphinfer.bundles.loading import Bundle
from lymphinfer.predict.finish import finish_slide
from lymphinfer.predict.plan import SlidePlan, load, plan_slide, predict_shards
from lymphinfer.predict.result import SlideResult
from lymphinfer.predict.settings import PredictSettings
from lymphinfer.simulate.slide import write_large_slide

CYCLES = 50
NO_OPS = 500


def timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - began


def claim_cycle(folder: Path, settings: PredictSettings) -> float:
    """Seconds to claim a slide, write its states and release it."""
    claims = Claims(settings)
    began = time.perf_counter()
    for i in range(CYCLES):
        claim = claims.claim(Job(folder / "none.svs", folder / str(i)))
        assert isinstance(claim, Claim)
        claims.done(claim, nuclei=0, computed=True)
    seconds = (time.perf_counter() - began) / CYCLES
    claims.close()
    return seconds


def dask_task(part: SlidePlan) -> tuple[float, float]:
    """Seconds until the first answer of a local cluster, and a task that does nothing."""
    from distributed import Client, LocalCluster

    began = time.perf_counter()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.submit(len, "", pure=False).result()
        start = time.perf_counter() - began
        began = time.perf_counter()
        client.gather([client.submit(_count, part, i, pure=False) for i in range(NO_OPS)])
        return start, (time.perf_counter() - began) / NO_OPS


def _count(part: SlidePlan, number: int) -> int:
    return len(part.shards) + number


def size_of(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path, nargs="?")
    parser.add_argument("--side", type=int, default=20_000, help="px of a made slide")
    parser.add_argument("--bundle", default="he-v2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--shards", type=int, default=8, help="compute no more than these")
    parser.add_argument("--dask", action="store_true")
    arguments = parser.parse_args()
    settings = PredictSettings(
        bundle=arguments.bundle, device=arguments.device, workers=arguments.workers
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        slide = arguments.slide or place / "made.svs"
        if arguments.slide is None:
            write_large_slide(slide, arguments.side)
        rows = measure(slide, place, settings, arguments.shards, with_dask=arguments.dask)
    table = Table("what", "measured", title=f"{arguments.bundle} on {settings.device}")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def open_and_plan(
    slide: Path, folder: Path, settings: PredictSettings, bundle: Bundle
) -> SlidePlan | SlideResult:
    with settings.open(slide) as opened:
        return plan_slide(opened, folder, settings, bundle)


def measure(
    slide: Path, place: Path, settings: PredictSettings, most: int, *, with_dask: bool
) -> list[tuple[str, str]]:
    bundle, loading = timed(load, settings)
    plan, planning = timed(open_and_plan, slide, place / "out", settings, bundle)
    if isinstance(plan, SlideResult) or not plan.shards:
        raise SystemExit(f"{slide}: nothing to compute")
    # Full shards from the middle of the slide: the first warms up, the edge has few tiles.
    full = max(len(shard.tiles) for shard in plan.shards)
    chosen = [shard.id for shard in plan.shards if len(shard.tiles) == full][: most + 1]
    seconds, nuclei = [], 0
    for shard in chosen:
        done, spent = timed(predict_shards, plan.only([shard]), [shard], bundle)
        seconds.append(spent)
        nuclei += done.nuclei
    seconds = seconds[1:] or seconds
    run, at_once = timed(predict_shards, plan.only(chosen), chosen, bundle)
    partial = plan.only(chosen)
    result, finishing = timed(
        finish_slide, partial, bundle.manifest, seconds=run.seconds, total_seconds=0.0
    )
    tiles = plan.tiles()
    stored, share = size_of(place / "out"), plan.tiles(chosen) / tiles
    part_bytes = size_of(place / "out" / "parts")
    pickled = len(pickle.dumps(plan.only(chosen[:1])))
    shard_s = statistics.median(seconds)
    spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
    rows = [
        ("slide", f"{plan.tissue_mm2:.1f} mm² of tissue, {tiles} tiles, {len(plan.shards)} shards"),
        ("load a bundle, once a worker", f"{loading:.1f} s"),
        ("plan a slide (open, identity, tissue)", f"{planning:.2f} s"),
        (f"a shard of {full} tiles, alone", f"{shard_s:.2f} s ({spread})"),
        ("a shard among others", f"{at_once / len(chosen):.2f} s"),
        ("nuclei a shard", f"{nuclei / len(chosen):,.0f}"),
        ("finish the slide, all its shards", f"{finishing / share:.2f} s"),
        ("parts of the slide", f"{part_bytes / share / 1e6:.1f} MB"),
        ("parts, views and summary of the slide", f"{stored / share / 1e6:.1f} MB"),
        ("storage a nucleus", f"{stored / max(result.n_nuclei, 1):.0f} bytes"),
        ("lock, states and release, a slide", f"{claim_cycle(place / 'c', settings) * 1e3:.1f} ms"),
        ("a shard's task, pickled", f"{pickled / 1e3:.1f} kB"),
    ]  # fmt: skip
    if with_dask:
        start, task = dask_task(plan.only(chosen[:1]))
        rows += [
            ("Dask: scheduler and two workers up", f"{start:.1f} s"),
            ("Dask: overhead of a task", f"{task * 1e3:.2f} ms"),
        ]
    return rows


if __name__ == "__main__":
    main()
