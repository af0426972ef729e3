#!/usr/bin/env python3
"""Makes the .npz files of this folder with NumPy; test_npz.c knows what is in them.  NumPy 1.24 was used."""
import io
import os
import struct
import zipfile
import zlib

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def path(name):
    return os.path.join(HERE, name)


def arrays():
    """Element i of each array is i, i/4 for floats; bool: i odd."""
    def count(dtype, *shape):
        return np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape).astype(dtype)
    return {
        "0.weight": (count("f8", 2, 3) / 4).astype("<f4"),
        "1.running_mean": count("<f8", 5) / 4,
        "1.num_batches_tracked": np.array(7, dtype="<i8"),
        "empty": np.zeros((0, 3), dtype="<f4"),
        "i4": count("<i4", 4) - 2,
        "i2": count("<i2", 4) - 2,
        "i1": count("i1", 4) - 2,
        "u4": count("<u4", 4),
        "u2": count("<u2", 4),
        "u1": count("u1", 2, 2),
        "bool": np.array([False, True, False, True]),
        "fortran": np.asfortranarray((count("f8", 2, 3, 4) / 4).astype("<f4")),
        "transposed": (count("f8", 3, 2) / 4).T,
    }


class OnlyForward(io.RawIOBase):
    """A file that cannot seek: zipfile then puts sizes and CRC after each entry."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def writable(self):
        return True

    def write(self, data):
        return self.file.write(data)


def npy(n):
    """An .npy file of n floats."""
    array = io.BytesIO()
    np.lib.format.write_array(array, np.arange(n, dtype="<f4"), version=(1, 0))
    return array.getvalue()


def lie(name, data, claimed):
    """An archive of one entry, the deflated `data`, with the size and CRC of `claimed` in both its records."""
    with zipfile.ZipFile(path(name), "w") as archive:
        archive.writestr(zipfile.ZipInfo("x.npy"), data, zipfile.ZIP_DEFLATED)
    with open(path(name), "rb") as file:
        content = file.read()
    for true, false in (len(data), len(claimed)), (zlib.crc32(data), zlib.crc32(claimed)):
        assert content.count(struct.pack("<I", true)) == 2
        content = content.replace(struct.pack("<I", true), struct.pack("<I", false))
    with open(path(name), "wb") as file:
        file.write(content)


def main():
    lie("unpacks_to_more.npz", npy(4) + b"extra", npy(4))
    lie("unpacks_to_less.npz", npy(6)[:-8], npy(6))
    np.savez(path("savez.npz"), **arrays())
    np.savez_compressed(path("compressed.npz"), **arrays())
    with open(path("streamed.npz"), "wb") as file, io.BufferedWriter(OnlyForward(file)) as pipe:
        np.savez_compressed(pipe, **arrays())
    with zipfile.ZipFile(path("versions.npz"), "w") as archive:
        for version in (1, 0), (2, 0), (3, 0):
            with archive.open("v%d.npy" % version[0], "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.arange(6, dtype="<i8").reshape(2, 3), version=version)
        archive.comment = b"a comment"
    limit, zipfile.ZIP64_LIMIT = zipfile.ZIP64_LIMIT, 10  # 64-bit records throughout
    np.savez(path("zip64.npz"), a=np.arange(6, dtype="<f4"), b=np.arange(3, dtype="<i8"))
    zipfile.ZIP64_LIMIT = limit
    np.savez(path("records.npz"), np.zeros(2, dtype=[("x", "<f4"), ("y", "<i4")]))
    np.savez(path("half.npz"), x=np.zeros(2, dtype="<f2"))
    np.savez(path("big_endian.npz"), x=np.zeros(2, dtype=">f4"))
    np.savez(path("nothing.npz"))


if __name__ == "__main__":
    main()
