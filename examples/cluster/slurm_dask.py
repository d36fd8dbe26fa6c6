"""A batch on SLURM through Dask: the shards of each slide spread over all workers.

    pip install 'lymphinfer[cluster]' dask-jobqueue
    python examples/cluster/slurm_dask.py /project/slides /project/results --workers 16

Run it on a login node or in a small job of its own: it only hands out work. Slides and results must
lie on a file system that every node sees. PBS and LSF: take PBSCluster or LSFCluster.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dask_jobqueue import SLURMCluster

from lymphinfer import PredictSettings
from lymphinfer.batch.inputs import find_jobs
from lymphinfer.batch.run import run_on_dask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--queue")
    parser.add_argument("--cpu", action="store_true", help="workers without a GPU")
    arguments = parser.parse_args()

    threads = 8
    gpu = not arguments.cpu
    cluster = SLURMCluster(
        queue=arguments.queue,
        cores=1,
        job_cpu=threads,
        processes=1,
        memory="32GB",
        walltime="12:00:00",
        # One model a worker, one shard at a time; a worker's GPU is a resource of the scheduler.
        worker_extra_args=["--resources", "GPU=1"] if gpu else [],
        job_extra_directives=["--gres=gpu:1"] if gpu else [],
        job_script_prologue=[f"export LYMPHINFER_THREADS={threads}"],
    )
    cluster.scale(jobs=arguments.workers)
    settings = PredictSettings(
        device="cuda" if gpu else "cpu", precision="bf16" if gpu else "auto", workers=threads
    )
    result = run_on_dask(
        find_jobs(arguments.slides, arguments.results),
        arguments.results,
        settings,
        scheduler=cluster.scheduler_address,
    )
    print(f"{len(result.done)} done, {len(result.failed)} failed")
    for slide in result.failed:
        print(f"{slide.slide}: {slide.reason}")
    raise SystemExit(result.exit_code)


if __name__ == "__main__":
    main()
