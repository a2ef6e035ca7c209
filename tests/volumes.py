"""One array of voxels in every format, written with the tools that people use."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from napari_memseg.geometry import Zyx

SIZE = (2.5, 0.5, 0.25)
"""Voxel size in micrometres, of the formats that can say it."""
UNIT = "micrometer"

Writer = Callable[[Path, NDArray[Any]], str]
"""Write voxels below a folder, and return the source that opens them."""


def noise(shape: Zyx = (5, 37, 29), dtype: str = "uint16", seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).integers(0, 200, shape)
    return values.astype(dtype)


def tiff(**options: Any) -> Writer:
    def write(folder: Path, voxels: NDArray[Any]) -> str:
        tifffile.imwrite(folder / "scan.tif", voxels, photometric="minisblack", **options)
        return str(folder / "scan.tif")

    return write


def imagej_tiff(folder: Path, voxels: NDArray[Any]) -> str:
    about = {"axes": "ZYX", "spacing": SIZE[0], "unit": "\\u00B5m"}
    resolution = (1 / SIZE[2], 1 / SIZE[1])
    tifffile.imwrite(folder / "scan.tif", voxels, imagej=True, metadata=about, resolution=resolution)
    return str(folder / "scan.tif")


def ome_tiff(folder: Path, voxels: NDArray[Any]) -> str:
    about = {"axes": "ZYX"} | {f"PhysicalSize{a}": s for a, s in zip("ZYX", SIZE, strict=True)}
    units = {f"PhysicalSize{a}Unit": "µm" for a in "ZYX"}
    tifffile.imwrite(folder / "scan.ome.tif", voxels, metadata=about | units, photometric="minisblack")
    return str(folder / "scan.ome.tif")


def slices(folder: Path, voxels: NDArray[Any], names: str = "slice_{}.tif") -> str:
    (folder / "scan").mkdir()
    for number, plane in enumerate(voxels, start=8):
        tifffile.imwrite(folder / "scan" / names.format(number), plane, photometric="minisblack")
    return str(folder / "scan")


def ome_zarr(version: str) -> Writer:
    def write(folder: Path, voxels: NDArray[Any]) -> str:
        return str(write_ome_zarr(folder / "scan.ome.zarr", [voxels, voxels[::2, ::2, ::2]], version))

    return write


def write_ome_zarr(
    path: Path,
    levels: list[NDArray[Any]],
    version: str = "0.5",
    *,
    axes: str = "zyx",
    unit: str | None = UNIT,
    scales: list[list[float]] | None = None,
) -> Path:
    """Write a multiscale group as the standard says, without this package."""
    kinds = {"c": "channel", "t": "time"}
    rows = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    rows = [row | ({"unit": unit} if unit and row["type"] == "space" else {}) for row in rows]
    size = dict(zip("zyx", SIZE, strict=True))
    default = [[size.get(a, 1.0) * (2**n if a in size else 1) for a in axes] for n in range(len(levels))]
    datasets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for n, scale in enumerate(scales or default)
    ]
    image: dict[str, Any] = {"axes": rows, "datasets": datasets}
    zarr_format = 2 if version == "0.4" else 3
    image |= {"version": version} if version == "0.4" else {}
    ome = {"multiscales": [image]}
    attributes = ome if version == "0.4" else {"ome": {"version": version, **ome}}
    zarr.create_group(path, zarr_format=zarr_format, attributes=attributes)
    for n, level in enumerate(levels):
        write_zarr(path / str(n), level, zarr_format)
    return path


def write_zarr(path: Path, voxels: NDArray[Any], zarr_format: int, **options: Any) -> Path:
    chunks = tuple(min(8, n) for n in voxels.shape)
    array = zarr.create_array(
        path, shape=voxels.shape, dtype=voxels.dtype, chunks=chunks, zarr_format=zarr_format, **options
    )
    array[...] = voxels
    return path


def plain_zarr(zarr_format: int, **options: Any) -> Writer:
    def write(folder: Path, voxels: NDArray[Any]) -> str:
        return str(write_zarr(folder / "scan.zarr", voxels, zarr_format, **options))

    return write


MILLIMETRES = [length / 1000 for length in reversed(SIZE)]
"""x, y, z."""


def metaimage(folder: Path, voxels: NDArray[Any], *, compressed: bool = False) -> str:
    """Write a header and voxels: beside it, or compressed behind it."""
    kind = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "float32": "MET_FLOAT"}[voxels.dtype.name]
    path = folder / ("scan.mha" if compressed else "scan.mhd")
    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryDataByteOrderMSB = False\nCompressedData = {compressed}\n"
        f"ElementSpacing = {' '.join(map(str, MILLIMETRES))}\n"
        f"DimSize = {' '.join(map(str, reversed(voxels.shape)))}\nElementType = {kind}\n"
        f"ElementDataFile = {'LOCAL' if compressed else 'scan.raw'}\n"
    ).encode()
    path.write_bytes(header + (zlib.compress(voxels.tobytes()) if compressed else b""))
    (folder / "scan.raw").write_bytes(voxels.tobytes())
    return str(path)


def vgi(folder: Path, voxels: NDArray[Any]) -> str:
    shape = " ".join(map(str, reversed(voxels.shape)))
    kind = "float" if voxels.dtype.kind == "f" else "unsigned integer"
    (folder / "scan.vgi").write_text(
        f"{{volume1}}\n[representation]\nsize = {shape}\n[file1]\nFileFormat = raw\nSize = {shape}\n"
        f"Name = scan.vol\nDatatype = {kind}\nBitsPerElement = {8 * voxels.itemsize}\nSkipHeader = 3\n"
        f"{{volumeprimitive12}}\n[geometry]\nresolution = {' '.join(map(str, MILLIMETRES))}\nunit = mm\n"
    )
    (folder / "scan.vol").write_bytes(b"123" + voxels.tobytes())
    return str(folder / "scan.vgi")


def nrrd(encoding: str) -> Writer:
    def write(folder: Path, voxels: NDArray[Any]) -> str:
        import nrrd

        directions = np.diag(SIZE[::-1])
        header = {"space": "left-posterior-superior", "space directions": directions, "encoding": encoding}
        nrrd.write(str(folder / "scan.nrrd"), voxels.T, {**header, "space units": ["um"] * 3})
        return str(folder / "scan.nrrd")

    return write


def nifti(ending: str) -> Writer:
    def write(folder: Path, voxels: NDArray[Any]) -> str:
        import nibabel

        image = nibabel.Nifti1Image(voxels.T, np.diag([*MILLIMETRES, 1]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, folder / f"scan.{ending}")
        return str(folder / f"scan.{ending}")

    return write


def hdf5(folder: Path, voxels: NDArray[Any]) -> str:
    import h5py

    with h5py.File(folder / "scan.h5", "w") as file:
        dataset = file.create_dataset("group/raw", data=voxels, chunks=(2, 16, 16), compression="gzip")
        dataset.attrs["element_size_um"] = SIZE
    return str(folder / "scan.h5")


def amira(folder: Path, voxels: NDArray[Any], *, codec: str = "") -> str:
    kind = {"uint8": "byte", "uint16": "ushort", "float32": "float"}[voxels.dtype.name]
    data = zlib.compress(voxels.tobytes()) if codec else voxels.tobytes()
    ends = [f"0 {(n - 1) * length}" for n, length in zip(voxels.shape[::-1], SIZE[::-1], strict=True)]
    header = (
        f"# AmiraMesh BINARY-LITTLE-ENDIAN 2.1\n\ndefine Lattice {' '.join(map(str, voxels.shape[::-1]))}\n\n"
        f'Parameters {{\n    Units {{\n        Coordinates "um"\n    }}\n    BoundingBox {" ".join(ends)},\n'
        f'    CoordType "uniform"\n}}\n\nLattice {{ {kind} Data }} @1'
        f"{f'({codec},{len(data)})' if codec else ''}\n\n# Data section follows\n@1\n"
    ).encode()
    (folder / "scan.am").write_bytes(header + data + b"\n")
    return str(folder / "scan.am")


def nikon(folder: Path, voxels: NDArray[Any]) -> str:
    """Write a header, and float32 voxels beside it."""
    z, y, x = voxels.shape
    lengths = "".join(f"VoxelSize{axis}=0.0195\n" for axis in "XYZ")
    shape = f"VoxelsX={x}\nVoxelsY={y}\nVoxelsZ={z}\n"
    (folder / "fly.xtekct").write_text(f"[XTekCT]\nName=fly\n{shape}{lengths}")
    (folder / "fly.vol").write_bytes(voxels.astype("<f4").tobytes())
    return str(folder / "fly.xtekct")


def bmp(plane: NDArray[Any]) -> bytes:
    """Return a picture of 8 bits in grey, rows from the bottom up."""
    height, width = plane.shape
    row = -(-width // 4) * 4
    palette = b"".join(bytes((n, n, n, 0)) for n in range(256))
    head = struct.pack("<2sIHHI", b"BM", 54 + 1024 + row * height, 0, 0, 54 + 1024)
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, row * height, 0, 0, 256, 256)
    rows = b"".join(line.tobytes().ljust(row, b"\0") for line in plane[::-1])
    return head + about + palette + rows


def png(plane: NDArray[Any]) -> bytes:
    """Return a picture in grey."""
    return bytes(imagecodecs.png_encode(plane))


def pictures(ending: str, write: Callable[[NDArray[Any]], bytes]) -> Writer:
    def write_all(folder: Path, voxels: NDArray[Any]) -> str:
        (folder / "scan").mkdir()
        for number, plane in enumerate(voxels.astype(np.uint8), 96):
            (folder / "scan" / f"fly_rec{number:08}.{ending}").write_bytes(write(plane))
        log = "[Acquisition]\nImage Pixel Size (um)=2\n[Reconstruction]\nPixel Size (um)=4.5\n"
        (folder / "scan" / "fly_rec.log").write_text(log)
        return str(folder / "scan")

    return write_all


def dicom_series(folder: Path, voxels: NDArray[Any]) -> str:
    """Write a series of uint16 slices whose names do not count as its slices lie."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    for number, plane in enumerate(voxels):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
        one.Rows, one.Columns = plane.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 0
        one.PixelSpacing, one.ImageOrientationPatient = [0.5, 0.25], [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [0, 0, 2.5 * number]
        one.PixelData = plane.astype("<u2").tobytes()
        one.save_as(folder / f"IM{(number * 3) % 5}.dcm", enforce_file_format=True)
    return str(folder)


FORMATS: dict[str, Writer] = {
    "tiff": tiff(),
    "zlib tiff": tiff(compression="zlib", rowsperstrip=5),
    "lzw tiff with a predictor": tiff(compression="lzw", predictor=True),
    "tiled tiff": tiff(tile=(16, 16), compression="zstd"),
    "bigtiff": tiff(bigtiff=True, byteorder=">"),
    "imagej": imagej_tiff,
    "ome-tiff": ome_tiff,
    "slices": slices,
    "ome-zarr 0.4": ome_zarr("0.4"),
    "ome-zarr 0.5": ome_zarr("0.5"),
    "zarr 2": plain_zarr(2),
    "zarr 3": plain_zarr(3),
    "zarr 3 in shards": plain_zarr(3, shards=(10, 40, 32)),
    "metaimage": metaimage,
    "metaimage, compressed": partial(metaimage, compressed=True),
    "vgi": vgi,
    "nrrd": nrrd("raw"),
    "nrrd, gzip": nrrd("gzip"),
    "nrrd, bzip2": nrrd("bzip2"),
    "nifti": nifti("nii"),
    "nifti, gzip": nifti("nii.gz"),
    "hdf5": hdf5,
    "amira": amira,
    "amira, zip": partial(amira, codec="HxZip"),
}
SPECIAL: dict[str, Writer] = {
    "nikon": nikon,
    "dicom": dicom_series,
    "bmp slices": pictures("bmp", bmp),
    "png slices": pictures("png", png),
    "amira, run lengths": partial(amira, codec="HxByteRLE"),
}
"""Formats of one dtype, or of a voxel size that is told otherwise."""
KNOW_NOTHING = {
    *("tiff", "zlib tiff", "lzw tiff with a predictor", "tiled tiff", "bigtiff", "slices"),
    *("zarr 2", "zarr 3", "zarr 3 in shards"),
}
"""Formats that do not say how large a voxel is."""


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
