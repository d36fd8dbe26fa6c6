"""OME-Zarr, and slides at addresses of a server of our own."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from lymphinfer.batch.inputs import find_jobs, is_single
from lymphinfer.errors import PixelSizeError, SlideError
from lymphinfer.slides import open_slide

from .made import halved, write_scn, write_svs


def write_zarr(path: Path, image: np.ndarray, version: str, mpp: float = 0.25, **changes) -> Path:
    """OME-Zarr with two levels, axes tczyx."""
    options = {"unit": "micrometer", "axes": "tczyx", "name": "scan", "labels": None, **changes}
    root = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    axes, datasets = options["axes"], []
    half = halved(image) if image.dtype == np.uint8 else image[::2, ::2]
    for k, level in enumerate((image, half)):
        planes = np.moveaxis(level, 2, 0)
        if axes == "tczyx":
            planes = planes[None, :, None]
        chunks = tuple(min(n, 128) for n in planes.shape)
        array = root.create_array(str(k), shape=planes.shape, chunks=chunks, dtype=planes.dtype)
        array[:] = planes
        scale = [mpp * 2**k if axis in "yx" else 1.0 for axis in axes]
        datasets.append(
            {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    described = [
        {"name": a, "type": "space", "unit": options["unit"]} if a in "zyx" else {"name": a}
        for a in axes
    ]
    content: dict[str, object] = {
        "multiscales": [
            {"version": version, "name": options["name"], "axes": described, "datasets": datasets}
        ]
    }
    if options["labels"]:
        content["omero"] = {"channels": [{"label": label} for label in options["labels"]]}
    if version == "0.4":
        root.attrs.update(content)
    else:
        root.attrs["ome"] = {"version": version, **content}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "cyx"])
def test_ome_zarr_is_read_at_its_own_size_and_levels(tmp_path, pixels, version, axes):
    path = write_zarr(tmp_path / "a.ome.zarr", pixels, version, axes=axes)
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "OME-Zarr")
        assert slide.reader == f"zarr:ome-{version}"
        assert slide.level_dimensions == ((603, 500), (301, 250))
        assert np.array_equal(slide.read_region(0, 0, 603, 500, 0.25), pixels)
        assert np.array_equal(slide.read_region(0, 0, 301, 250, 0.5), halved(pixels))
        assert (slide.read_region(-9, -9, 9, 9, 0.25) == 255).all()
        assert slide.warnings == ()


def test_a_store_is_one_slide_in_a_folder_and_by_itself(tmp_path, pixels):
    path = write_zarr(tmp_path / "in" / "a.ome.zarr", pixels, "0.4")
    assert is_single(path)
    (alone,) = find_jobs(path)
    assert alone.folder == tmp_path / "in" / "a.lymphinfer" / "a"
    (job,) = find_jobs(tmp_path / "in", tmp_path / "out")
    assert (job.slide, job.folder) == (path, tmp_path / "out" / "a")


def test_units_are_converted_and_a_missing_one_is_no_size(tmp_path, pixels):
    path = write_zarr(tmp_path / "a.zarr", pixels, "0.4", mpp=250, unit="nanometer")
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)
    with pytest.raises(PixelSizeError, match="gives no length"):
        open_slide(write_zarr(tmp_path / "b.zarr", pixels, "0.4", unit=""))


def test_what_is_no_rgb_is_refused_as_such(tmp_path, pixels):
    with pytest.raises(SlideError, match=r"not an RGB H&E image.*uint16"):
        open_slide(write_zarr(tmp_path / "a.zarr", pixels.astype(np.uint16), "0.5"))
    labels = ["Hoechst", "CD3", "CD8"]
    path = write_zarr(tmp_path / "b.zarr", pixels, "0.4", labels=labels)
    with pytest.raises(SlideError, match="called Hoechst, CD3, CD8"):
        open_slide(path)
    with open_slide(path, force=True) as slide:
        assert slide.warnings
    zarr.open_group(str(tmp_path / "c.zarr"), mode="w", zarr_format=2)
    with pytest.raises(SlideError, match="without an OME-Zarr image"):
        open_slide(tmp_path / "c.zarr")


def test_several_images_of_a_store_are_told_apart(tmp_path, pixels):
    root = tmp_path / "a.zarr"
    zarr.open_group(str(root), mode="w", zarr_format=2)
    write_zarr(root / "0", np.ascontiguousarray(pixels[:200, :100]), "0.4", mpp=9, name="macro")
    write_zarr(root / "1", pixels, "0.4")
    with open_slide(root) as slide:
        assert slide.dimensions == (603, 500)
        assert "'macro'" in slide.warnings[0]
    with open_slide(root, mpp=0.3, series="macro") as slide:
        assert slide.dimensions == (100, 200)


class Handler(SimpleHTTPRequestHandler):
    """Files with byte ranges; counts what it sends."""

    protocol_version = "HTTP/1.1"
    sent = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        size, asked = len(data), self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last or size - 1), size - 1)
            data = data[int(first) : end + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{end}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            Handler.sent += len(data)
            self.wfile.write(data)


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("aiohttp", reason="needs the extra `remote`")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        Handler.sent = 0
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_of_a_slide_at_an_address_only_the_tiles_asked_for_are_fetched(server):
    folder, address = server
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (3000, 3000, 3), dtype=np.uint8)
    tifffile.imwrite(
        folder / "a.tif", image, photometric="rgb", tile=(256, 256), metadata=None,
        resolution=(40_000, 40_000), resolutionunit=3,
    )  # fmt: skip
    with open_slide(f"{address}/a.tif") as slide:
        opening = Handler.sent
        region = slide.read_region(700, 700, 100, 100, 0.25)
        reading = Handler.sent - opening
        assert slide.identity() == open_slide(folder / "a.tif").identity()
    assert np.array_equal(region, image[700:800, 700:800])
    assert opening < 1e6 < (folder / "a.tif").stat().st_size / 20
    assert 0 < reading <= 4 * 256 * 256 * 3


def test_a_scanner_s_slide_and_a_zarr_store_are_read_at_an_address(server, pixels):
    folder, address = server
    svs = write_svs(folder / "a.svs", pixels)
    store = write_zarr(folder / "a.ome.zarr", pixels, "0.4")
    for file in (svs, store):
        # As the command line hands it on: a path has lost one of the slashes.
        with open_slide(Path(f"{address}/{file.name}")) as far, open_slide(file) as near:
            size = (10, 10, 200, 200, 0.25)
            assert np.abs(far.read_region(*size).astype(int) - near.read_region(*size)).max() <= 3
            assert far.mpp == near.mpp
            assert far.facts()["name"] == file.name


def test_an_address_that_is_wrong_is_named_without_its_query(server):
    folder, address = server
    with pytest.raises(SlideError, match=r"gone\.tif: no such file") as caught:
        open_slide(f"{address}/gone.tif?token=secret")
    assert "secret" not in str(caught.value)
    (folder / "a.svs").write_bytes(b"<!DOCTYPE html><title>login</title>" * 9)
    with pytest.raises(SlideError, match="a web page"):
        open_slide(f"{address}/a.svs")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a.png", "a PNG image"), ("a.jpg", "a JPEG image"), ("a.dcm", "a DICOM file"),
        ("a.czi", "a Zeiss CZI slide"), ("a.mrxs", "a MIRAX slide"), ("a.vms", "VMS slide"),
        ("a.ndpi", "NDPI slide"), ("leica.tif", "a Leica SCN slide"),
        ("philips.tiff", "a Philips TIFF slide"),
    ],
)  # fmt: skip
def test_what_can_be_read_on_a_disk_alone_is_to_be_downloaded(server, pixels, name, what):
    folder, address = server
    path = folder / name
    if name == "leica.tif":
        write_scn(path, pixels, mpp=0.25, offset=(100, 100))
    elif name == "philips.tiff":
        text = '<?xml version="1.0" ?><DataObject ObjectType="DPUfsImport"></DataObject>'
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), metadata=None,
                         software="Philips DP v1.0", description=text)  # fmt: skip
    elif name in ("a.png", "a.jpg"):
        Image.fromarray(pixels).save(path)
    else:
        magic = {"a.czi": b"ZISRAWFILE", "a.dcm": bytes(128) + b"DICM"}.get(name, b"II*\0")
        path.write_bytes(magic + bytes(500))
    with pytest.raises(SlideError, match=f"{what}.*cannot be read at an address.*Download"):
        open_slide(f"{address}/{name}")


def test_the_results_of_an_address_go_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (job,) = find_jobs(Path("https://example.org/slides/a%20b.ome.tif?x=1"))
    assert job.folder == Path("a b.lymphinfer/a b")
