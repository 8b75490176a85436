"""helpers.data and what it stands on: files good and bad, downloads, stand-ins, sharding, batches."""

import gc
import gzip
import hashlib
import http.server
import io
import multiprocessing
import os
import pickle
import re
import signal
import socket
import struct
import tarfile
import threading
import time
from types import SimpleNamespace

from helpers import ROOT, data
from helpers.data import augment, download, readers, standin

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.damage import python2_batch

TRAIN, TEST = 20, 4  # images in the small files written here


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Files of a few images are whole data sets, and no machine's own files are found."""
    for name in readers.COUNTS:
        monkeypatch.setitem(readers.COUNTS, name, (TRAIN, TEST))
    monkeypatch.setattr(readers, "DEBIAN_FASHION", readers.Path("/nonexistent"))
    monkeypatch.delenv("BNN_QUIET", raising=False)


def arrays(shape=(28, 28), seed=0):
    random = np.random.RandomState(seed)
    content = {}
    for half, count in (("train", TRAIN), ("test", TEST)):
        content[f"x_{half}"] = random.randint(0, 256, (count, *shape)).astype(np.uint8)
        content[f"y_{half}"] = (np.arange(count) % 10).astype(np.uint8)
    return content


def same(dataset, content):
    loaded = {key: getattr(dataset, key).reshape(value.shape) for key, value in content.items()}
    return all(np.array_equal(loaded[key], content[key]) for key in content)


# Files


def test_content_and_not_packing_decides_what_is_official(tmp_path, monkeypatch):
    content = arrays()
    sha256 = data.content_sha256([content[key] for key in readers.KEYS])
    monkeypatch.setitem(data.KNOWN, sha256, ("mnist", "mnist", "official MNIST", True))
    repacked = {key: value.reshape(-1, 1).astype(np.int64) if key[0] == "y" else value[..., None]
                for key, value in content.items()}  # fmt: skip
    for number, (save, packed) in enumerate([(np.savez, content), (np.savez_compressed, repacked)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        save(folder / "mnist.npz", **packed)
        dataset = data.load("MNIST", folder)
        assert same(dataset, content) and dataset.official and dataset.name == "mnist"
        assert dataset.sha256 == sha256 and sha256[:12] in dataset.provenance
        assert dataset.x_train.shape == (TRAIN, 28, 28, 1) and dataset.input_shape == (28, 28, 1)
        assert dataset.y_train.dtype == np.int32 and dataset.y_test.shape == (TEST,)
        assert dataset.num_classes == 10 and str(dataset) == dataset.provenance == repr(dataset)


def test_a_copy_that_nobody_vouches_for_says_so(tmp_path, monkeypatch):
    content = arrays((32, 32, 3))
    np.savez(tmp_path / "cifar10.npz", **content)
    dataset = data.load("CIFAR-10", tmp_path)
    assert (dataset.name, dataset.official) == ("cifar10-unverified", False)
    assert "not official" in dataset.provenance and "no known copy" in dataset.provenance
    labels = data.content_sha256([content["y_train"], content["y_test"]])
    monkeypatch.setitem(data.KNOWN_LABELS, "cifar10", labels)
    assert "official labels of CIFAR-10 with pixels of no known copy" in data.load("cifar10", tmp_path).source


def test_another_data_set_under_this_name_is_refused(tmp_path, monkeypatch):
    content = arrays()
    sha256 = data.content_sha256([content[key] for key in readers.KEYS])
    monkeypatch.setitem(data.KNOWN, sha256, ("mnist", "mnist", "official MNIST", True))
    np.savez(tmp_path / "fashion_mnist.npz", **content)
    with pytest.raises(data.DataError, match="fashion_mnist.npz holds official MNIST, and Fashion-MNIST was"):
        data.load("fashion_mnist", tmp_path)


def npz(**changes):
    content = {**arrays(), **changes}
    file = io.BytesIO()
    np.savez_compressed(file, **{key: value for key, value in content.items() if value is not None})
    return file.getvalue()


def npy():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


UNUSABLE = {
    "empty": (b"", "not a NumPy archive"),
    "web page": (b"<html>Sign in</html>", "not a NumPy archive"),
    "single array": (npy(), "not a NumPy archive"),
    "truncated": (npz()[:-2000], "BadZipFile"),
    "damaged": (npz()[:900] + bytes(200) + npz()[1100:], "Error|BadZipFile"),
    "missing keys": (npz(x_test=None, y_test=None), "no x_test, y_test, only x_train, y_train"),
    "wrong shape": (npz(x_train=np.zeros((TRAIN, 9, 9), np.uint8)), r"x_train of type uint8 and shape \(20,"),
    "wrong count": (npz(y_train=np.zeros(TRAIN - 1, np.uint8)), r"y_train of type uint8 and shape \(19,\)"),
    "normalised": (npz(x_test=np.zeros((TEST, 28, 28), np.float32)), "x_test of type float32"),
    "label out of range": (npz(y_test=np.array([0, 1, 2, 10])), "y_test with labels from 0 to 10"),
    "negative label": (npz(y_test=np.array([0, 1, 2, -1])), "y_test with labels from -1 to 2"),
    "pickled": (npz(y_test=np.array([0, None, 2, 3], dtype=object)), "ValueError"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_file_is_named_explained_and_left_alone(tmp_path, kind):
    content, found = UNUSABLE[kind]
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=found) as caught:
        data.load("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith("mnist.npz in ") and "put a good copy in its place" in message
    assert "Expected: a NumPy archive of x_train, y_train, x_test, y_test with 20 + 4 images" in message
    assert (tmp_path / "mnist.npz").read_bytes() == content


def test_unknown_name():
    with pytest.raises(data.DataError, match="'imagenet'. Expected one of: mnist, cifar10, fashion_mnist"):
        data.load("imagenet")


def test_messages_name_the_folder_without_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA_DIR", str(tmp_path))
    assert readers.shown(tmp_path) == "$BNN_DATA_DIR"
    assert readers.shown(ROOT / "data") == "data/"
    (tmp_path / "mnist.npz").write_bytes(b"")
    with pytest.raises(data.DataError) as caught:
        data.load("mnist")
    assert str(tmp_path) not in str(caught.value)


# CIFAR-10's batches


def batches_of(content):
    size = TRAIN // 5
    raw = {
        f"data_batch_{1 + k}": python2_batch(
            content["x_train"][k * size : (k + 1) * size], content["y_train"][k * size : (k + 1) * size]
        )
        for k in range(5)
    }
    return {**raw, "test_batch": python2_batch(content["x_test"], content["y_test"])}


def write_batches(folder, raw):
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for name, content in raw.items():
        (folder / "cifar-10-batches-py" / name).write_bytes(content)


def write_archive(path, raw):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in raw.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_batches_are_official_by_their_checksums(tmp_path, monkeypatch, kind):
    content = arrays((32, 32, 3))
    raw = batches_of(content)
    if kind == "folder":
        write_batches(tmp_path, raw)
    else:
        # A member that leads out of the folder is not followed: nothing is unpacked at all.
        members = {f"cifar-10-batches-py/{name}": value for name, value in raw.items()}
        write_archive(tmp_path / "cifar-10-python.tar.gz", {"../escaped": b"x", **members})
    dataset = data.load("cifar10", tmp_path)
    assert same(dataset, content) and dataset.name == "cifar10-unverified" and not dataset.official
    for name, value in raw.items():
        monkeypatch.setitem(readers.BATCHES, name, hashlib.md5(value).hexdigest())
    dataset = data.load("cifar10", tmp_path)
    assert dataset.official and dataset.name == "cifar10" and dataset.label_names[6] == "frog"
    assert dataset.x_train.flags.c_contiguous
    assert len(list(tmp_path.iterdir())) == 1 and not (tmp_path.parent / "escaped").exists()


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, np.fromfile, getattr])
def test_a_pickle_that_could_run_code_is_refused(tmp_path, function):
    marker = tmp_path / "ran"
    call = f"__import__('os').mkdir({str(marker)!r})" if function is eval else str(marker)
    hostile = pickle.dumps({b"data": Hostile(function, call), b"labels": [0]})
    write_batches(tmp_path, {**batches_of(arrays((32, 32, 3))), "data_batch_3": hostile})
    with pytest.raises(data.DataError, match="a pickle that asks for .*, which no data set needs"):
        data.load("cifar10", tmp_path)
    assert not marker.exists()


def test_batches_that_are_missing_or_cut_off(tmp_path):
    raw = batches_of(arrays((32, 32, 3)))
    write_batches(tmp_path / "missing", {name: raw[name] for name in raw if name != "data_batch_4"})
    with pytest.raises(data.DataError, match="cifar-10-batches-py in .* no data_batch_4"):
        data.load("cifar10", tmp_path / "missing")
    write_batches(tmp_path / "cut", {**raw, "test_batch": raw["test_batch"][:5000]})
    with pytest.raises(data.DataError, match="Found: (UnpicklingError|EOFError)"):
        data.load("cifar10", tmp_path / "cut")
    write_archive(tmp_path / "whole.tar.gz", raw)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:-3000])
    with pytest.raises(data.DataError, match="cifar-10-python.tar.gz in .* Found: "):
        data.load("cifar10", tmp_path)


def test_the_lossless_part_of_cifar10_serves_where_there_is_no_more(tmp_path, monkeypatch):
    content = arrays((32, 32, 3))
    for half, count in (("train", 4000), ("test", 1000)):
        content[f"x_{half}"] = np.resize(content[f"x_{half}"], (count, 32, 32, 3))
        content[f"y_{half}"] = np.resize(content[f"y_{half}"], count)
    np.savez(tmp_path / "cifar10_lossless_5k.npz", **content)
    assert same(data.load("cifar10", tmp_path), content)
    np.savez(tmp_path / "cifar10.npz", **arrays((32, 32, 3)))
    assert len(data.load("cifar10", tmp_path).x_train) == TRAIN


# Fashion-MNIST's idx files


def write_idx(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    for file, key in zip(readers.IDX_FILES, readers.KEYS, strict=True):
        array = content[key]
        header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
        (folder / file).write_bytes(gzip.compress(header + array.tobytes()))


@pytest.mark.parametrize("place", ["", "fashion-mnist", "system"])
def test_idx_files(tmp_path, monkeypatch, place):
    content = arrays()
    write_idx(tmp_path / place, content)
    if place == "system":
        monkeypatch.setattr(readers, "DEBIAN_FASHION", tmp_path / place)
    dataset = data.load("fashion_mnist", tmp_path)
    assert same(dataset, content) and dataset.label_names[9] == "Ankle boot"
    labels = tmp_path / place / readers.IDX_FILES[1]
    labels.write_bytes(labels.read_bytes()[:20])
    with pytest.raises(data.DataError, match="Found: EOFError"):
        data.load("fashion_mnist", tmp_path)


def test_idx_files_of_another_layout(tmp_path):
    write_idx(tmp_path, arrays((14, 14)))
    with pytest.raises(data.DataError, match=r"x_train of type uint8 and shape \(20, 14, 14\)"):
        data.load("fashion_mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_data_set_that_was_downloaded_here_is_official(name, monkeypatch):
    monkeypatch.undo()
    if readers.find(name, ROOT / "data") is None:
        pytest.skip(f"{name} is not in data/")
    assert data.load(name, ROOT / "data").official


def test_the_readme_lists_the_files_and_checksums_that_the_code_uses():
    text = (ROOT / "data" / "README.md").read_text()
    for files in download.FILES.values():
        for file in files:
            assert f"| `{file.path}` | {file.size:,} | `{file.sha256}` |" in text


# Downloads, from a real server


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An HTTP server on this machine. /good/F sends content[F] (after `delay` s), other paths misbehave."""
    state = SimpleNamespace(requests=[], content={}, delay=0, over=threading.Event())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests.append(self.path)
            _, how, name = self.path.split("/", 2)
            if how == "silent":
                state.over.wait(20)
                return
            body = state.content[name]
            if how == "refused":
                return self.send_error(403)
            self.send_response(200)
            if how != "unmeasured":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if how != "good":
                body = body[: len(body) // 2]
            for start in range(0, len(body), 1 + len(body) // 4):
                self.wfile.write(body[start : start + 1 + len(body) // 4])
                self.wfile.flush()
                state.over.wait(state.delay / 4)
            if how == "stalled":
                state.over.wait(20)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    state.folder = tmp_path / "data"

    def offer(name, content, how="good"):
        file = name.rpartition("/")[2]
        state.content[file] = content
        sha256 = hashlib.sha256(content).hexdigest()
        return download.File(name, f"{state.url}/{how}/{file}", len(content), sha256)

    state.offer = offer
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.delenv("BNN_OFFLINE", raising=False)
    yield state
    state.over.set()
    httpd.shutdown()
    httpd.server_close()


def test_a_download_is_checked_and_kept(server, monkeypatch, capsys):
    monkeypatch.setitem(download.FILES, "mnist", (server.offer("mnist.npz", npz()),))
    dataset = data.load("mnist", server.folder)
    assert same(dataset, arrays())
    assert [file.name for file in server.folder.iterdir()] == ["mnist.npz"]  # neither parts nor locks
    assert (server.folder / "mnist.npz").stat().st_mode & 0o044 == 0o044 & ~_umask()
    assert capsys.readouterr() == ("", "")  # no progress bar where nobody watches
    data.load("mnist", server.folder)
    assert len(server.requests) == 1


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_only_missing_files_are_fetched(server, monkeypatch, tmp_path):
    write_idx(tmp_path / "idx", arrays())
    raw = {file: (tmp_path / "idx" / file).read_bytes() for file in readers.IDX_FILES}
    files = tuple(server.offer(f"fashion-mnist/{file}", content) for file, content in raw.items())
    monkeypatch.setitem(download.FILES, "fashion_mnist", files)
    (server.folder / "fashion-mnist").mkdir(parents=True)
    (server.folder / files[2].path).write_bytes(raw[readers.IDX_FILES[2]])
    assert same(data.load("fashion_mnist", server.folder), arrays())
    assert len(server.requests) == 3


def failing(server, monkeypatch, file):
    monkeypatch.setitem(download.FILES, "mnist", (file,))
    with pytest.raises(data.DataError) as caught:
        data.load("mnist", server.folder, quiet=True)
    assert list(server.folder.iterdir()) == []
    assert str(caught.value).startswith(f"The download of mnist.npz from {server.url}/")
    assert "Try again" in str(caught.value) and "BNN_OFFLINE=1" in str(caught.value)
    return str(caught.value)


def test_a_wrong_checksum_is_never_used(server, monkeypatch):
    file = server.offer("mnist.npz", npz())._replace(sha256="0" * 64)
    message = failing(server, monkeypatch, file)
    assert hashlib.sha256(npz()).hexdigest() in message and "0" * 64 in message


@pytest.mark.parametrize("how", ["cut", "unmeasured", "stalled"])
def test_a_transfer_that_breaks_off(server, monkeypatch, how):
    monkeypatch.setattr(download, "STALL_SECONDS", 1)
    file = server.offer("mnist.npz", npz(), how)
    message = failing(server, monkeypatch, file)
    expected = "timed out" if how == "stalled" else f"of its {file.size:,} bytes {file.size // 2:,} came"
    assert expected in message


def test_a_transfer_that_does_not_end(server, monkeypatch):
    file = server.offer("mnist.npz", npz())
    assert "bytes more came" in failing(server, monkeypatch, file._replace(size=1000))
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.2)
    server.delay = 2
    assert "not complete after 0.2 s" in failing(server, monkeypatch, file)


@pytest.mark.parametrize("how", ["silent", "refused", "closed", "name look-up"])
def test_without_an_answer_the_stand_in_comes_within_three_seconds(server, monkeypatch, capsys, how):
    file = server.offer("mnist.npz", npz(), how)
    if how == "closed":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            file = file._replace(url=f"http://127.0.0.1:{unused.getsockname()[1]}/good/mnist.npz")
    if how == "name look-up":
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: server.over.wait(20) and [])
    monkeypatch.setitem(download.FILES, "mnist", (file,))
    monkeypatch.setattr(data, "_SAID", set())
    standin.digits()
    start = time.monotonic()
    dataset = data.load("mnist", server.folder)
    assert time.monotonic() - start < 4
    assert dataset.name == "mnist-5k"
    reason = {"refused": "Forbidden", "closed": ".*Connection refused"}.get(how, "no answer in 3 s")
    assert re.search(rf"no download \(127.0.0.1: {reason}\)", capsys.readouterr().err)
    assert not server.folder.exists() or list(server.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made(server, monkeypatch, tmp_path):
    monkeypatch.setitem(download.FILES, "mnist", (server.offer("mnist.npz", npz()),))
    (tmp_path / "file").write_text("")
    with pytest.raises(download.Unavailable, match="cannot be written"):
        download.fetch("mnist", tmp_path / "file" / "data")


# Several processes


@pytest.fixture(scope="module")
def processes():
    # A fork of this process would copy TensorFlow, but not its threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.data.download"])
    return context


def _fetch(file, folder, results, start):
    download.FILES["mnist"] = (file,)
    start.wait(60)
    try:
        download.fetch("mnist", folder, quiet=True)
        results.put(hashlib.sha256((folder / "mnist.npz").read_bytes()).hexdigest())
    except (data.DataError, download.Unavailable) as error:
        results.put(f"{type(error).__name__}: {error}")


def _outcomes(processes, number, file, folder):
    results, start = processes.Queue(), processes.Barrier(number)
    ranks = [processes.Process(target=_fetch, args=(file, folder, results, start)) for _ in range(number)]
    for rank in ranks:
        rank.start()
    outcomes = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(10)
    return outcomes


def test_one_process_downloads_and_the_others_wait(server, processes):
    file = server.offer("mnist.npz", npz())
    server.delay = 1
    assert _outcomes(processes, 4, file, server.folder) == [file.sha256] * 4
    assert len(server.requests) == 1
    assert [left.name for left in server.folder.iterdir()] == ["mnist.npz"]


def test_those_who_wait_fail_with_the_one_that_failed(server, processes):
    file = server.offer("mnist.npz", npz())._replace(sha256="0" * 64)
    server.delay = 2
    outcomes = _outcomes(processes, 3, file, server.folder)
    assert all(outcome.startswith("DataError: The download of mnist.npz") for outcome in outcomes)
    assert len(server.requests) == 1 and list(server.folder.iterdir()) == []


def test_a_killed_process_holds_up_nobody(server, processes, monkeypatch):
    file = server.offer("mnist.npz", npz())
    server.delay = 20
    results, at_once = processes.Queue(), processes.Barrier(1)
    killed = processes.Process(target=_fetch, args=(file, server.folder, results, at_once))
    killed.start()
    end = time.monotonic() + 30
    while not (server.folder.exists() and list(server.folder.glob(".mnist.npz.*.part"))):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(10)
    (part,) = server.folder.glob(".mnist.npz.*.part")
    assert (server.folder / ".mnist.lock").exists()
    os.utime(part, (1, 1))
    server.delay = 0
    monkeypatch.setitem(download.FILES, "mnist", (file,))
    start = time.monotonic()
    assert same(data.load("mnist", server.folder), arrays())
    assert time.monotonic() - start < 3
    assert [left.name for left in server.folder.iterdir()] == ["mnist.npz"]  # the old part went too


def test_waiting_has_a_limit(server, monkeypatch):
    monkeypatch.setitem(download.FILES, "mnist", (server.offer("mnist.npz", npz()),))
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.3)
    server.folder.mkdir()
    with download._turn(server.folder / ".mnist.lock"):
        with pytest.raises(data.DataError, match="Another process has held .mnist.lock in .* for 0.3 s"):
            download.fetch("mnist", server.folder)
    assert server.requests == []


# Stand-ins


@pytest.mark.parametrize(
    ("name", "instead", "shape"),
    [("mnist", "mnist-5k", (28, 28, 1)), ("cifar10", "digits-on-photographs", (32, 32, 3)),
     ("fashion_mnist", "photograph-patches", (28, 28, 1))],
)  # fmt: skip
def test_a_stand_in_is_named_balanced_and_repeatable(tmp_path, monkeypatch, capsys, name, instead, shape):
    monkeypatch.setattr(data, "_SAID", set())
    dataset, again = data.load(name, tmp_path), data.load(name, tmp_path)
    assert dataset.name == instead and not dataset.official and dataset.sha256 == again.sha256
    assert f"stand-in for {data.TITLES[name]}" in dataset.provenance and "not official" in dataset.provenance
    assert dataset.input_shape == shape
    assert dataset.x_train.dtype == np.uint8 and dataset.y_test.dtype == np.int32
    assert np.bincount(dataset.y_train).tolist() == [400] * 10
    assert np.bincount(dataset.y_test).tolist() == [100] * 10
    train = {image.tobytes() for image in dataset.x_train}
    assert not any(image.tobytes() in train for image in dataset.x_test)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1  # twice loaded, once said
    assert instead in said.err and data.TITLES[name] in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_digits_are_those_of_the_committed_results():
    assert data.content_sha256(standin.digits()[3]).startswith("ebf75f664d1e")


def test_train_and_test_backgrounds_share_no_pixel(monkeypatch):
    # Photographs whose pixels tell their column: training images hold low values, test images high ones.
    columns = np.broadcast_to((np.arange(640) // 4).astype(np.uint8)[None, None, :, None], (2, 427, 640, 3))
    monkeypatch.setattr(standin, "_photographs", lambda: columns)
    blank = np.zeros((200, 28, 28, 1), np.uint8)
    train = standin._blend(blank, standin.TRAIN_COLUMNS, np.random.RandomState(0))
    test = standin._blend(blank, standin.TEST_COLUMNS, np.random.RandomState(0))
    assert train.max() < 480 / 4 <= test.min() and test.max() < 160 and train.min() < 10


@pytest.mark.parametrize("size", [20, 28, 32])
def test_resizing_keeps_a_gradient(size):
    image = np.broadcast_to(np.arange(28) * 9, (28, 28))
    resized = standin._resize(image, size)
    expected = np.interp((np.arange(size) + 0.5) * 28 / size - 0.5, np.arange(28), np.arange(28) * 9)
    assert np.abs(resized - expected).max() <= 1.1


def test_quiet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "_SAID", set())
    data.load("mnist", tmp_path, quiet=True)
    monkeypatch.setenv("BNN_QUIET", "1")
    data.load("mnist", tmp_path)
    assert capsys.readouterr() == ("", "")


def test_arrays_cannot_be_written_to(tmp_path):
    dataset = data.load("mnist", tmp_path, quiet=True)
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# Sharding and batches

sizes = {"n": st.integers(1, 3000), "size": st.integers(1, 16), "batch_size": st.integers(1, 40)}


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 3000), size=st.integers(1, 16), seed=st.integers(0, 2**40), epoch=st.integers(0, 99))
def test_shards_are_disjoint_and_complete(n, size, seed, epoch):
    order = data.epoch_order(n, seed, epoch)
    assert order.dtype == np.int64 and np.array_equal(order, data.epoch_order(n, seed, epoch))
    shards = [data.shard(order, rank, size) for rank in range(size)]
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(n))


@settings(max_examples=60, deadline=None)
@given(**sizes)
def test_ranks_step_together_through_what_one_rank_sees(n, size, batch_size):
    if n < size * batch_size:
        with pytest.raises(data.DataError, match="do not fill one batch"):
            data.steps_per_epoch(n, batch_size, size)
        return
    steps = data.steps_per_epoch(n, batch_size, size)
    assert steps == data.steps_per_epoch(n, batch_size * size, 1)
    order = data.epoch_order(n, 1, 2)
    whole = order[: steps * batch_size * size].reshape(steps, -1)
    for step in range(0, steps, 7):
        mine = slice(step * batch_size, (step + 1) * batch_size)
        parts = [data.shard(order, rank, size)[mine] for rank in range(size)]
        assert {len(part) for part in parts} == {batch_size}
        assert sorted(np.concatenate(parts)) == sorted(whole[step])


def test_orders_differ_between_seeds_and_epochs_and_never_change():
    orders = {data.epoch_order(100, seed, epoch).tobytes() for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    # What a run of another day, machine or NumPy has to find again when it is resumed.
    assert data.epoch_order(8, 3, 5).tolist() == [5, 6, 2, 1, 4, 7, 0, 3]


def labelled(n):
    x = np.random.RandomState(0).randint(0, 256, (n, 3, 3, 1)).astype(np.uint8)
    return x, np.arange(n, dtype=np.int32)


@pytest.mark.parametrize(("n", "size"), [(203, 4), (64, 1), (129, 3)])
def test_batches_of_n_ranks_are_those_of_one(n, size):
    x, y = labelled(n)
    arguments = {"seed": 7, "epoch": 3, "size": size, "batch_size": 8}
    ranks = [list(data.batches(x, y, rank=rank, **arguments)) for rank in range(size)]
    alone = list(data.batches(x, y, seed=7, epoch=3, batch_size=8 * size))
    assert {len(rank) for rank in ranks} == {len(alone)} == {n // (8 * size)}
    for step, (images, labels) in enumerate(alone):
        parts = np.concatenate([rank[step][1] for rank in ranks])
        assert sorted(parts) == sorted(labels.numpy())
        assert np.array_equal(images, data.normalise(x[labels.numpy()]))


def test_batches_have_a_static_shape_and_normalised_pixels():
    x, y = labelled(100)
    pipeline = data.batches(x, y, batch_size=32, seed=0, epoch=0)
    assert pipeline.element_spec[0] == tf.TensorSpec((32, 3, 3, 1), tf.float32)
    assert pipeline.element_spec[1] == tf.TensorSpec((32,), tf.int32)
    assert len(pipeline) == 3
    again = data.batches(tf.constant(x), tf.constant(y), batch_size=32, seed=0, epoch=0)
    for (images, labels), (same_images, same_labels) in zip(pipeline, again, strict=True):
        assert np.array_equal(images, same_images) and np.array_equal(labels, same_labels)
    assert data.normalise(np.array([0, 255], np.uint8)).tolist() == [0.0, 1.0]
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(data.normalise(every), data.normalise(tf.constant(every)))
    assert data.normalise(every).dtype == np.float32
    with pytest.raises(data.DataError, match="found float32: are they normalised already"):
        data.normalise(data.normalise(every))


def test_floats_pass_as_they_are():
    x, y = np.linspace(-5, 5, 40, dtype=np.float32)[:, None], np.linspace(0, 1, 40, dtype=np.float32)
    images, targets = next(iter(data.batches(x, y, batch_size=40, seed=0, epoch=0)))
    assert np.array_equal(np.sort(images[:, 0]), x[:, 0]) and np.array_equal(np.sort(targets), y)


def test_augmented_images_are_moved_by_what_seed_and_epoch_say():
    n = 24
    x, y = np.random.default_rng(0).integers(0, 256, (n, 12, 10, 3), dtype=np.uint8), np.arange(n, dtype=np.int32)
    moves = augment.moves(n, seed=3, epoch=1)
    assert set(moves[:, 0]) == {0, 1} and (moves[:, 1:].min(), moves[:, 1:].max()) == (0, 2 * augment.REACH)
    assert not np.array_equal(moves, augment.moves(n, seed=3, epoch=2))
    whole = data.batches(x, y, batch_size=8, seed=3, epoch=0, epochs=2, augment=True)
    later = list(whole)[3:]
    for images, labels in later:
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            mirrored, down, right = moves[label]
            before = np.pad(x[label][:, ::-1] if mirrored else x[label], [(4, 4), (4, 4), (0, 0)])
            assert np.array_equal(image, data.normalise(before[down : down + 12, right : right + 10]))
    ranks = [data.batches(x, y, batch_size=4, seed=3, epoch=1, rank=r, size=2, augment=True) for r in range(2)]
    for (images, labels), *parts in zip(later, *ranks, strict=True):
        order = np.argsort(np.concatenate([part[1] for part in parts]))
        assert np.array_equal(np.concatenate([part[0] for part in parts])[order], images.numpy()[np.argsort(labels)])


@pytest.mark.parametrize("start_step", [0, 1, 5, 6])
def test_start_step_leaves_out_the_first_steps(start_step):
    x, y = labelled(100)
    arguments = {"batch_size": 8, "seed": 1, "epoch": 1, "rank": 1, "size": 2}
    whole = list(data.batches(x, y, **arguments))
    rest = list(data.batches(x, y, start_step=start_step, **arguments))
    assert len(whole) == 6 and len(rest) == 6 - start_step
    for (images, labels), (expected, expected_labels) in zip(rest, whole[start_step:], strict=True):
        assert np.array_equal(images, expected) and np.array_equal(labels, expected_labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_size": 0}, "at least 1"), ({"size": 0}, "at least 1"), ({"rank": 2, "size": 2}, "no rank 2 of"),
     ({"start_step": 4}, "no step 4 in an epoch of 3"), ({"y": np.zeros(99)}, "there are 100 and 99"),
     ({"batch_size": 51, "size": 2}, "100 examples do not fill")],
)  # fmt: skip
def test_what_does_not_fit_is_said_at_once(changes, message):
    x, y = labelled(100)
    arguments = {"x": x, "y": y, "batch_size": 32, "seed": 0, "epoch": 0, **changes}
    with pytest.raises(data.DataError, match=message):
        data.batches(**arguments)


def test_an_array_is_copied_once_and_let_go():
    x, y = labelled(1000)
    x.setflags(write=False)
    before = len(data._TENSORS)
    for epoch in range(3):
        list(data.batches(x, y, batch_size=100, seed=0, epoch=epoch))
    assert len(data._TENSORS) == before + 1  # y can be written to, so it is read anew each time
    y[:] = -1
    assert next(iter(data.batches(x, y, batch_size=10, seed=0, epoch=0)))[1].numpy().max() == -1
    del x
    gc.collect()
    assert len(data._TENSORS) == before
