"""Vectors in and out of files: Parquet, HDF5 and NPZ."""
