"""The command `imagesearch compare` with a real embedder and two models."""

import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import Command

MODELS = ("--models", "mobilenet,mobilenet-max")


def read(printed: str) -> dict[str, Any]:
    """Return what --json printed; messages follow it."""
    found: dict[str, Any] = json.loads(printed.splitlines()[0])
    return found


def test_compare_measures_all_models_on_the_same_images(
    command: Command, photos: Path, labels: Path, embedder_address: str, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "cat" / "broken.png").write_bytes(b"no picture")
    (folder / "cat" / "empty.png").write_bytes(b"")
    page, cache = tmp_path / "page.html", ("--cache", tmp_path / "cache")
    arguments = ("compare", folder, "--by-folder", *MODELS, "--metrics", "cosine,l2", "-k", "2", *cache)
    found = read(command(*arguments, "--json", "-o", page))
    shown = command(*arguments)
    assert (found["images"], found["queries"]) == (17, 15)
    candidates = {(one["model"], one["metric"]): one for one in found["candidates"]}
    assert candidates.keys() == {
        (model, metric) for model in ("mobilenet", "mobilenet-max") for metric in ("cosine", "l2")
    }
    for (model, _), one in candidates.items():
        assert (one["embedded_now"], one["dimension"], one["bytes_per_image"]) == (15, 1024, 4096)
        assert one["images_per_second"] > 0
        assert one["fingerprint"].startswith(model.replace("-max", ""))
        # The vectors have unit length, so both metrics have one ranking.
        assert one["figures"]["mAP"]["mean"] == pytest.approx(candidates[model, "cosine"]["figures"]["mAP"]["mean"])
    means = [one["figures"]["mAP"]["mean"] for one in found["candidates"]]
    assert means == sorted(means, reverse=True)
    assert set(found["left_out"]["failed"]) == {
        "cat/broken.png (mobilenet)",
        "cat/broken.png (mobilenet-max)",
        "cat/empty.png",
    }
    assert "3 images that failed" in shown
    # The second run takes all vectors from the cache, so it may recommend another model because of its speed.
    assert "Use mobilenet" in shown
    assert found["advice"] in page.read_text()
    assert "IMAGE_FORMAT_UNSUPPORTED" in page.read_text()

    # The second run takes all vectors from the cache. It gets the same labels from a file.
    by_labels = ("--labels", labels, "--label-column", "product", "-k", "2", *cache)
    second = read(command("compare", folder, *by_labels, "--models", f"mobilenet@{embedder_address}", "--json"))
    (again,) = second["candidates"]
    assert (again["embedded_now"], again["images_per_second"]) == (0, None)
    assert second["left_out"]["labels without an image"] == []
    assert second["queries"] == 15
    assert again["figures"] == candidates["mobilenet", "cosine"]["figures"]


def test_a_killed_run_resumes_without_embedding_again(command: Command, photos: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "many", tmp_path / "cache"
    for number in range(4):
        # Every copy has a different content.
        for path in photos.glob("*/*.png"):
            copy = folder / path.parent.name / f"{number}-{path.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes() + bytes([number]))
    arguments = ["compare", str(folder), "--by-folder", "--models", "mobilenet-max", "--cache", str(cache)]
    running = command.start(*arguments)
    deadline = time.monotonic() + 60
    while not (before := kept(cache)) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    before = kept(cache)
    assert 0 < before < 60
    (found,) = read(command(*arguments, "--json"))["candidates"]
    assert found["embedded_now"] == 60 - before
    assert kept(cache) == 60


def kept(cache: Path) -> int:
    """Return the number of vectors in a folder."""
    total = 0
    for path in cache.glob("*.sqlite"):
        with sqlite3.connect(path) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'vectors'").fetchone():
                total += database.execute("SELECT COUNT(*) FROM vectors").fetchone()[0]
        database.close()
    return total


def test_queries_of_one_role_search_targets_of_another(command: Command, photos: Path, labels: Path) -> None:
    roles = ("--role-column", "role", "--query-role", "shelf", "--target-role", "product")
    arguments = ("--labels", labels, "--label-column", "product", *roles, "--models", "mobilenet", "--json")
    found = read(command("compare", photos, *arguments))
    assert (found["queries"], found["targets"]) == (10, 5)
    # The default cache is below XDG_CACHE_HOME.
    (candidate,) = found["candidates"]
    assert candidate["figures"]["P@1"]["mean"] >= 0.8


def test_a_model_of_two_embedders_is_named_with_their_addresses(
    command: Command, photos: Path, embedder_address: str
) -> None:
    _, _, port = embedder_address.partition(":")
    models = f"MobileNet-avg@{embedder_address}, mobilenet @localhost:{port}"
    shown = command("compare", photos, "--by-folder", "--models", models, COLUMNS="250")
    assert f"mobilenet@{embedder_address}, cosine" in shown
    assert f"mobilenet@localhost:{port}, cosine" in shown


def test_an_unknown_model_is_rejected_with_the_served_models(command: Command, photos: Path) -> None:
    shown = " ".join(command("compare", photos, "--by-folder", "--models", "mobilenet,inception", code=2).split())
    assert "does not serve 'inception'; it serves mobilenet, mobilenet-max, " in shown.replace("│ ", "")
    assert "Add the model to its setting EMBEDDER_MODELS" in shown.replace("│ ", "")


def test_two_names_of_one_model_are_rejected(command: Command, photos: Path) -> None:
    shown = command("compare", photos, "--by-folder", "--models", "mobilenet,mobilenet-avg", code=2)
    assert "'mobilenet-avg' is mobilenet, which is named twice" in " ".join(shown.replace("│", " ").split())


def test_an_unavailable_embedder_or_an_empty_folder_is_an_error(command: Command, photos: Path, tmp_path: Path) -> None:
    shown = command("compare", photos, "--by-folder", "--models", "mobilenet@127.0.0.1:9", code=1)
    assert "UNAVAILABLE" in shown
    assert "Is the embedder running?" in shown
    assert "contains no images" in command("compare", tmp_path, "--by-folder", code=1)
