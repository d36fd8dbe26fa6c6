"""Nothing that a list says of a slide is lost on the way to where its tasks are done."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile

from lymphinfer.batch.inputs import find_jobs
from lymphinfer.batch.job import Job, check_jobs
from lymphinfer.batch.options import BatchOptions
from lymphinfer.batch.places.here import Here
from lymphinfer.batch.run import run_jobs, worker_processes
from lymphinfer.batch.single import this_process
from lymphinfer.batch.state import Status
from lymphinfer.batch.tasks import PlanTask
from lymphinfer.errors import LymphinferError
from lymphinfer.export.results import open_result
from lymphinfer.predict.settings import PredictSettings
from tests.predict.conftest import MPP, disc_image
from tests.predict.test_roi import write_annotations

from .made_batch import settings

WHOLE, INSIDE = shapely.box(0, 0, 600, 500), shapely.box(100, 100, 400, 400)


def every_field(root: Path, bundle: Path) -> Path:
    """A list with one slide that needs every column: no pixel size, the smaller of two images."""
    large, (small, centers) = np.full((700, 800, 3), 243, np.uint8), disc_image(600, 500)
    with tifffile.TiffWriter(root / "two.ome.tif", ome=True) as tif:
        for name, image in (("large", large), ("small", small)):
            tif.write(image, photometric="rgb", tile=(128, 128), compression="jpeg",
                      metadata={"axes": "YXS", "Name": name})  # fmt: skip
    write_annotations(root / "roi.geojson", (INSIDE, "Tumor"))
    write_annotations(root / "tissue.geojson", (WHOLE, "Tissue"))
    write_annotations(root / "regions.geojson", (INSIDE, "Stroma"))
    discs = [(shapely.Point(center).buffer(8), "disc") for center in centers]
    write_annotations(root / "nuclei.geojson", *discs)
    table = root / "list.csv"
    table.write_text(
        "slide,mpp,bundle,out,roi,tissue,series,nuclei,regions\n"
        f"two.ome.tif,{MPP},{bundle},own,roi.geojson,tissue.geojson,small,nuclei.geojson,"
        "regions.geojson\n"
    )
    return table


def dask_threads():
    """Dask's own workers, as threads of this process."""
    from lymphinfer.batch.places.dask import Dask

    distributed = pytest.importorskip("distributed")

    @contextmanager
    def opened():
        options = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
        with (
            distributed.LocalCluster(**options, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield Dask(client)

    return opened()


PLACES = {
    "here": lambda chosen: this_process(),
    "processes": lambda chosen: worker_processes(chosen, BatchOptions()),
    "dask": lambda chosen: dask_threads(),
}


@pytest.mark.parametrize(
    "name", ["here", "dask", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_every_field_of_a_job_reaches_the_work_in_every_place(name, disc_bundle, tmp_path):
    (job,) = find_jobs(every_field(tmp_path, disc_bundle), tmp_path / "out")
    # A new column must be asked for here.
    assert all(getattr(job, field.name) is not None for field in fields(Job))
    # The command's own options are others: whatever is lost shows.
    chosen = settings(Path("sim-orion-v1"), runtime="torch", within_class=("Tumor",))
    result = run_jobs([job], tmp_path / "out", chosen, place=PLACES[name](chosen))
    assert [o.status for o in result.outcomes] == [Status.DONE], result.outcomes[0].reason
    found = open_result(tmp_path / "out" / "own")
    assert found.mpp == MPP and found.summary["bundle"]["name"] == "discs"
    assert found.dimensions == (600, 500)
    x, y = (np.concatenate([t.column(c).to_numpy() for t in found.tables()]) for c in "xy")
    assert len(x) > 20 and shapely.contains_xy(INSIDE, x, y).all()
    assert found.summary["region"]["classes"] == ["Tumor"]
    assert found.summary["tissue"]["from"] == "annotations"
    assert found.summary["nuclei_from"]["file"] == "nuclei.geojson"
    assert "Stroma" in {row["class"] for row in found.summary["regions"]["rows"]}
    assert not list((tmp_path / "out").rglob(".lock"))


def test_a_worker_in_another_folder_is_sent_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-bundle").mkdir()
    job = Job(Path("a.svs"), Path("out"), 0.25, "my-bundle", "r.json", "t.json", "1", "n.json",
              "g.json")  # fmt: skip
    chosen = job.settings(PredictSettings())
    task = PlanTask(1, job.slide, job.folder, chosen).anchored()
    lent = PlanTask(2, job.slide, job.folder, PredictSettings(detector="stardist")).anchored()
    monkeypatch.chdir("/")
    sent = pickle.loads(pickle.dumps(task))
    assert (sent.path, sent.folder) == (tmp_path / "a.svs", tmp_path / "out")
    places = {"roi": "r.json", "tissue": "t.json", "bundle": "my-bundle", "nuclei": "n.json",
              "regions": "g.json"}  # fmt: skip
    for field, place in places.items():
        assert getattr(sent.settings, field) == str(tmp_path / place)
    assert (sent.settings.mpp, sent.settings.series) == (0.25, "1")
    assert lent.settings.detector == "stardist"
    address = PlanTask(1, Path("https://example.org/a.svs"), tmp_path, chosen)
    assert address.anchored().path == address.path


def test_classes_need_annotations_of_the_command_or_of_the_list(tmp_path):
    chosen = PredictSettings(within_class=("Tumor",))
    plain = Job(tmp_path / "a.svs", tmp_path / "a")
    with pytest.raises(LymphinferError, match="--within-class: needs --roi"):
        check_jobs([plain], chosen)
    check_jobs([plain, Job(tmp_path / "b.svs", tmp_path / "b", roi="b.geojson")], chosen)


def test_a_place_says_when_it_has_room(tmp_path, disc_bundle):
    place = Here()
    assert place.room == 1
    place.submit(PlanTask(1, tmp_path / "none.svs", tmp_path / "out", settings(disc_bundle)))
    assert place.room == 0
    while place.room == 0:
        told = list(place.answers(1.0))
    assert "no such file" in told[-1].answer.reason
    place.close()
