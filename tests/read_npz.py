"""Runs write_npz and reads with NumPy what it wrote: read_npz.py PATH-OF-WRITE_NPZ.  Ends with 77 without NumPy."""
import subprocess
import sys
import tempfile
import zipfile

try:
    import numpy as np
except ImportError:
    print("skipped: no NumPy for %s; on Debian: apt-get install python3-numpy" % sys.executable)
    sys.exit(77)

with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.argv[1], folder], check=True)
    for name in "stored.npz", "deflated.npz", "zip64.npz":
        path = folder + "/" + name
        assert zipfile.ZipFile(path).testzip() is None, name
        with np.load(path) as archive:
            assert archive.files == ["0.weight", "f64", "1.num_batches_tracked", "empty", "ünïcode"], archive.files
            weight, f64, tracked = archive["0.weight"], archive["f64"], archive["1.num_batches_tracked"]
            assert weight.dtype == np.float32 and (weight == np.arange(6)).all(), weight
            assert f64.dtype == np.float64 and (f64 == np.arange(8) / 4).all(), f64
            assert tracked.dtype == np.int64 and tracked.shape == () and tracked == -7, tracked
            assert archive["empty"].shape == (0, 3)
            noise = archive["ünïcode"]
            assert noise.shape == (100, 1000) and abs(noise.mean() - 0.5) < 0.01, noise.mean()
print("NumPy %s reads all of them" % np.__version__)
