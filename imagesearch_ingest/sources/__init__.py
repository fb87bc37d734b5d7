"""Where images come from: folders, lists, manifests, archives and buckets, each as a stream of items."""
