"""Reads and writes files of vectors: Parquet, HDF5 and NPZ."""
