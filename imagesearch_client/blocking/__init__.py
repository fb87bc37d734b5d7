"""The blocking clients, in parts: generated from `imagesearch_client.aio`."""
