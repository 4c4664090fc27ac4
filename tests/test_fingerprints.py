"""Voxels in files beside the one that is named count as its own."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

import streamloss as sl
from streamloss.fingerprints import of_source
from streamloss.stores import open_volume

VOXELS = np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    return tmp_path


def save_nrrd(path, data_file, encoding="raw"):
    Path(path).write_text(
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 8 6 4\n"
        f"encoding: {encoding}\ndata file: {data_file}\n\n"
    )
    (Path(path).parent / data_file).write_bytes(VOXELS.tobytes())


def save_external(path, data_file):
    Path(data_file).write_bytes(VOXELS.tobytes())
    with h5py.File(path, "w") as file:
        place = [(os.fspath(data_file), 0, VOXELS.nbytes)]
        file.create_dataset("v", VOXELS.shape, np.uint8, external=place)


def save_plain(path, dataset="v"):
    with h5py.File(path, "w") as file:
        file[dataset] = VOXELS


def save_virtual(path, *sources, dataset="v", mode="w"):
    """Save a virtual dataset, each of whose sources is a whole one of another file."""
    layout = h5py.VirtualLayout((len(sources), *VOXELS.shape), np.uint8)
    for index, (name, inner) in enumerate(sources):
        layout[index] = h5py.VirtualSource(name, inner, VOXELS.shape)
    with h5py.File(path, mode) as file:
        file.create_virtual_dataset(dataset, layout)


def save_blocks(path, name, inner="v"):
    """Save a virtual dataset of as many sources as there are, told by a pattern."""
    space = h5py.h5s.create_simple((2, *VOXELS.shape), (h5py.h5s.UNLIMITED, *VOXELS.shape))
    space.select_hyperslab(
        (0, 0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1, 1), (1, 1, 1, 1), (1, *VOXELS.shape)
    )
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    source = h5py.h5s.create_simple(VOXELS.shape)
    settings.set_virtual(space, name.encode(), inner.encode(), source)
    with h5py.File(path, "w", libver="latest") as file:
        h5py.h5d.create(file.id, b"v", h5py.h5t.NATIVE_UINT8, space, settings).close()


def save_link(path, name, inner, at="v"):
    with h5py.File(path, "w") as file:
        file[at] = h5py.ExternalLink(name, inner)


def nrrd_of_another_stem():
    save_nrrd("a.nhdr", "voxels.bin")
    return "a.nhdr", ["voxels.bin"]


def nrrd_in_another_folder():
    save_nrrd("a.nrrd", "far/a.raw")
    return "a.nrrd", ["far/a.raw"]


def external_storage():
    save_external("a.h5", Path("far/v.dat").absolute())
    return "a.h5/v", ["far/v.dat"]


def external_storage_from_here():
    save_external("far/a.h5", "v.dat")
    return "far/a.h5", ["v.dat"]


def virtual_of_two_files():
    save_plain("far/one.h5")
    save_plain("far/two.h5", "deep/w")
    save_virtual("a.h5", ("far/one.h5", "v"), (os.fspath(Path("far/two.h5").absolute()), "deep/w"))
    return "a.h5", ["far/one.h5", "far/two.h5"]


def virtual_of_moved_files():
    """HDF5 looks for a file that is not where its full name says beside the one that names it."""
    save_plain("far/one.h5")
    save_virtual("far/a.h5", ("/not/there/one.h5", "v"))
    return "far/a.h5", ["far/one.h5"]


def virtual_of_virtual_and_external():
    save_external("far/one.h5", Path("far/v.dat").absolute())
    save_virtual("far/two.h5", ("one.h5", "v"))
    save_virtual("a.h5", ("far/two.h5", "v"))
    return "a.h5", ["far/one.h5", "far/two.h5", "far/v.dat"]


def virtual_of_the_same_file():
    save_external("a.h5", Path("far/v.dat").absolute())
    save_virtual("a.h5", (".", "v"), dataset="w", mode="a")
    return "a.h5/w", ["far/v.dat"]


def virtual_of_a_pattern():
    save_plain("far/part-0.h5")
    save_plain("far/part-1.h5")
    save_blocks("a.h5", "far/part-%b.h5")
    return "a.h5", ["far/part-0.h5", "far/part-1.h5"]


def virtual_of_a_pattern_of_datasets():
    save_plain("far/parts.h5", "v0")
    save_external("far/more.h5", Path("far/v.dat").absolute())
    with h5py.File("far/parts.h5", "a") as file:
        file["v1"] = h5py.ExternalLink("more.h5", "v")
    save_blocks("a.h5", "far/parts.h5", "v%b")
    return "a.h5", ["far/more.h5", "far/parts.h5", "far/v.dat"]


def link_to_a_file():
    save_plain("far/one.h5", "deep/v")
    save_link("a.h5", "far/one.h5", "deep")
    return "a.h5/v/v", ["far/one.h5"]


def link_to_a_link():
    save_plain("far/one.h5")
    save_link("far/two.h5", "one.h5", "v", at="group/w")
    with h5py.File("a.h5", "w") as file:
        file["group/out"] = h5py.ExternalLink("far/two.h5", "group")
        file["soft"] = h5py.SoftLink("group/out/w")
    return "a.h5/soft", ["far/one.h5", "far/two.h5"]


def ome_tiff_of_two_files():
    identity = "urn:uuid:00000000-0000-0000-0000-00000000000"
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="z{z}.ome.tif">{identity}{z}</UUID></TiffData>'
        for z in range(2)
    )
    for z in range(2):
        about = (
            '<?xml version="1.0"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{identity}{z}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="6" SizeZ="2" SizeC="1" '
            f'SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="1"/>{planes}</Pixels></Image>'
            "</OME>"
        )
        tifffile.imwrite(f"z{z}.ome.tif", VOXELS[z], description=about, metadata=None)
    return "z0.ome.tif", ["z1.ome.tif"]


KINDS = [
    nrrd_of_another_stem,
    nrrd_in_another_folder,
    external_storage,
    external_storage_from_here,
    virtual_of_two_files,
    virtual_of_moved_files,
    virtual_of_virtual_and_external,
    virtual_of_the_same_file,
    virtual_of_a_pattern,
    virtual_of_a_pattern_of_datasets,
    link_to_a_file,
    link_to_a_link,
    ome_tiff_of_two_files,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_voxels_in_further_files_have_changed_with_them(kind):
    source, further = kind()
    volume = open_volume(source, role="truth")
    out = np.zeros(volume.shape, volume.dtype)
    volume.read(tuple(slice(0, size) for size in volume.shape), out)
    # What is told to hold voxels is what they are read from.
    assert out.any()
    seen = of_source(source)
    assert seen["files"] == 1 + len(further)
    assert of_source(source) == seen
    assert of_source(os.fspath(Path(source).absolute())) == seen
    for path in further:
        os.utime(path, ns=(1, 1))
        assert of_source(source)["digest"] != seen["digest"], path
        seen = of_source(source)


def test_further_files_are_looked_for_where_the_environment_says():
    Path("data").mkdir()
    # Beside the file, below the working folder, and where only the second of two says; those of
    # the same name elsewhere are not the ones.
    save_external("data/a.h5", "v.dat")
    save_virtual("data/b.h5", ("one.h5", "v"))
    save_link("data/c.h5", "two.h5", "v")
    for name in ("one.h5", "two.h5"):
        save_plain(f"far/{name}")
        Path(f"data/{name}").touch()
    Path("v.dat").rename("data/v.dat")
    Path("v.dat").touch()
    variables = {
        "HDF5_EXTFILE_PREFIX": "${ORIGIN}",
        "HDF5_VDS_PREFIX": "far",
        "HDF5_EXT_PREFIX": f"not{os.pathsep}far",
    }
    # HDF5 reads them when it is loaded.
    script = """if True:
        import h5py
        from streamloss.fingerprints import of_source
        for path in ("data/a.h5", "data/b.h5", "data/c.h5"):
            with h5py.File(path) as file:
                assert file["v"][...].any(), path
            print(of_source(f"{path}/v")["bytes"])
    """
    told = subprocess.run(
        [sys.executable, "-c", script],
        check=True, capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip
    files = [("data/a.h5", "data/v.dat"), ("data/b.h5", "far/one.h5"), ("data/c.h5", "far/two.h5")]
    sizes = [sum(Path(path).stat().st_size for path in pair) for pair in files]
    assert told.stdout.split() == list(map(str, sizes))


def digest_of(*files):
    """What fingerprints told of files before they looked at further ones."""
    digest = hashlib.sha256()
    for name, path in sorted(files):
        facts = Path(path).stat()
        digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def test_the_digest_of_what_has_no_further_files_is_that_of_earlier_versions():
    save_nrrd("a.nhdr", "./a.raw")
    Path("a.txt").write_text("notes")
    save_plain("b.h5")
    for path in ("c.tif", "d.ome.tif"):
        tifffile.imwrite(path, VOXELS, photometric="minisblack")
    np.save("e.npy", VOXELS)
    beside = [("a.raw", "a.raw"), ("a.txt", "a.txt")]
    assert of_source("a.nhdr")["digest"] == digest_of(("", "a.nhdr"), *beside)
    for path in ("b.h5", "c.tif", "d.ome.tif", "e.npy"):
        assert of_source(path)["digest"] == digest_of(("", path))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_without_the_package_of_a_format_the_named_file_is_what_is_known(kind, monkeypatch):
    source, _ = kind()
    for package in ("h5py", "nrrd", "tifffile"):
        monkeypatch.setitem(sys.modules, package, None)
    assert of_source(source)["files"] == 1


@pytest.mark.parametrize("name", ["v.h5", "v.nhdr", "v.nrrd", "v.tif", "v.bin"])
def test_a_file_that_cannot_be_read_is_still_told_from_others(name):
    for content in (b"", b"\x89HDF\r\n\x1a\n and no more", b"NRRD0004\ndata file: gone\n\n"):
        Path(name).write_bytes(content)
        assert of_source(name)["digest"] == digest_of(("", name))


def test_links_that_lead_in_a_circle_end():
    save_link("a.h5", "b.h5", "v")
    save_link("b.h5", "a.h5", "v")
    assert of_source("a.h5/v")["files"] == 1
    save_virtual("c.h5", ("d.h5", "v"))
    save_virtual("d.h5", ("c.h5", "v"))
    assert of_source("c.h5/v")["files"] == 2


def test_a_further_file_that_appears_is_a_change():
    save_virtual("a.h5", ("far/one.h5", "v"))
    before = of_source("a.h5")
    assert before["files"] == 1
    save_plain("far/one.h5")
    assert of_source("a.h5")["digest"] != before["digest"]


@pytest.mark.parametrize("further", ["far/one.h5", "voxels.bin"])
def test_a_batch_is_not_resumed_if_a_further_file_has_changed(further):
    save_plain("far/one.h5")
    save_virtual("a.h5", ("far/one.h5", "v"))
    save_nrrd("b.nhdr", "voxels.bin")
    np.save("t.npy", VOXELS[None])
    np.save("u.npy", VOXELS)
    Path("cases.csv").write_text("case,truth,prediction\na,t.npy,a.h5/v\nb,u.npy,b.nhdr\n")
    run = {"output": "out", "metrics": "dice", "affine": "ignore"}
    sl.batch(sl.read_manifest("cases.csv"), **run)
    assert sl.batch(sl.read_manifest("cases.csv"), **run, resume=True).skipped == 2
    content = bytearray(Path(further).read_bytes())
    content[-1] ^= 1
    Path(further).write_bytes(content)
    with pytest.raises(sl.InvalidInputError, match="cannot be kept, "):
        sl.batch(sl.read_manifest("cases.csv"), **run, resume=True)
