"""Analysis of whole collections from a snapshot on disk, and evaluation of search quality."""
