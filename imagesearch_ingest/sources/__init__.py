"""Sources of images: folders, lists, manifests, archives and buckets. Each one lists its items as a stream."""
